//! Data sets in one file: what goes in comes out, and nothing else does.

use crate::support::toy::{content, file, manifest};
use flate2::{Compression, write::GzEncoder};
use std::path::{Path, PathBuf};
use swallow_eval::dataset::{
    DatasetError,
    archive::{self, Gaps},
    manifest::{DataFile, Manifest},
    store::Store,
};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// Two files, one of them without a known size.
fn pair() -> Vec<Manifest> {
    vec![manifest(vec![file("toy/train.jsonl", &content()), DataFile { bytes: None, ..file("toy/deep/er/test.jsonl", b"{\"a\": 1}\n") }])]
}

fn mirror() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("toy/deep/er")).unwrap();
    std::fs::write(dir.path().join("toy/train.jsonl"), content()).unwrap();
    std::fs::write(dir.path().join("toy/deep/er/test.jsonl"), "{\"a\": 1}\n").unwrap();
    dir
}

/// Everything below a directory.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let below: Vec<PathBuf> = paths.iter().filter(|path| path.is_dir()).flat_map(|path| tree(path)).collect();
    paths.extend(below);
    paths
}

#[test]
fn what_goes_in_comes_out() {
    let (mirror, dir) = (mirror(), tempfile::tempdir().unwrap());
    let (archive, again, cache) = (dir.path().join("a.tar.gz"), dir.path().join("b.tar.gz"), dir.path().join("cache"));
    let store = Store::mirror_only(mirror.path());
    let exported = archive::export(&store, &pair(), Gaps::Refuse, &archive).unwrap();
    assert_eq!(exported.files, ["toy/deep/er/test.jsonl", "toy/train.jsonl"]);
    assert_eq!(exported.bytes, content().len() as u64 + 9);
    archive::export(&store, &pair(), Gaps::Refuse, &again).unwrap();
    assert!(std::fs::read(&archive).unwrap() == std::fs::read(&again).unwrap(), "the same files give the same bytes");

    assert_eq!(archive::import(&archive, &cache, &pair()).unwrap(), exported);
    let unpacked = dir.path().join("unpacked");
    tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&archive).unwrap())).unpack(&unpacked).unwrap();
    for place in [&cache, &unpacked] {
        assert_eq!(Store::mirror_only(place).records(&pair()[0], "train").unwrap().len(), 20_001, "{}", place.display());
        assert_eq!(tree(place).iter().filter(|path| path.is_file()).count(), 2, "nothing is left over in {}", place.display());
    }
}

#[test]
fn gaps_are_left_out_or_refused() {
    let (mirror, dir) = (mirror(), tempfile::tempdir().unwrap());
    let (store, archive) = (Store::mirror_only(mirror.path()), dir.path().join("a.tar.gz"));
    std::fs::remove_file(mirror.path().join("toy/train.jsonl")).unwrap();
    let export = |gaps| archive::export(&store, &pair(), gaps, &archive);
    assert!(matches!(export(Gaps::Refuse), Err(DatasetError::Missing { file, .. }) if file == "toy/train.jsonl"));
    assert!(tree(dir.path()).is_empty(), "{:?}", tree(dir.path()));
    let exported = export(Gaps::LeaveOut).unwrap();
    assert_eq!((exported.files, exported.missing), (vec!["toy/deep/er/test.jsonl".to_owned()], vec!["toy/train.jsonl".to_owned()]));
    std::fs::write(mirror.path().join("toy/train.jsonl"), "changed").unwrap();
    assert!(matches!(export(Gaps::LeaveOut), Err(DatasetError::Differs { .. })), "a wrong file is not a gap");
    let nowhere = dir.path().join("no/such/folder/a.tar.gz");
    std::fs::remove_file(mirror.path().join("toy/train.jsonl")).unwrap();
    let error = archive::export(&store, &pair(), Gaps::LeaveOut, &nowhere).unwrap_err();
    assert!(matches!(&error, DatasetError::ArchiveFile { action: "write", .. }), "{error}");
    std::fs::remove_dir_all(mirror.path().join("toy")).unwrap();
    assert!(matches!(export(Gaps::LeaveOut), Err(DatasetError::Missing { .. })), "an archive of nothing is none");
}

/// An archive of entries of any name, kind and content. Names are written as they are: the crate itself would refuse the bad ones.
fn packed(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        if !matches!(kind, EntryType::Regular | EntryType::Directory) {
            header.as_gnu_mut().unwrap().linkname[..11].copy_from_slice(b"/etc/passwd");
        }
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

#[test]
fn what_others_packed_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("a.tar.gz");
    let entries: [(&str, EntryType, &[u8]); 3] = [
        ("./", EntryType::Directory, b""),
        ("./toy/", EntryType::Directory, b""),
        ("./toy/deep/er/test.jsonl", EntryType::Regular, b"{\"a\": 1}\n"),
    ];
    std::fs::write(&archive, packed(&entries)).unwrap();
    let imported = archive::import(&archive, &dir.path().join("cache"), &pair()).unwrap();
    assert_eq!(imported.files, ["toy/deep/er/test.jsonl"]);
}

#[test]
fn whatever_is_wrong_changes_nothing() {
    use EntryType::{Char, Directory, Link, Regular, Symlink};
    let good: (&str, EntryType, &[u8]) = ("toy/deep/er/test.jsonl", Regular, b"{\"a\": 1}\n");
    let whole = packed(&[good]);
    let whole_train = content();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (packed(&[good, ("../evil", Regular, b"x")]), "entry ../evil: it leads out"),
        (packed(&[good, ("toy/../../evil", Regular, b"x")]), "it leads out"),
        (packed(&[good, ("/etc/evil", Regular, b"x")]), "it leads out"),
        (packed(&[good, ("../evil/", Directory, b"")]), "it leads out"),
        (packed(&[good, ("toy/train.jsonl", Symlink, b"")]), "neither a file nor a folder"),
        (packed(&[good, ("toy/train.jsonl", Link, b"")]), "neither a file nor a folder"),
        (packed(&[good, ("toy/train.jsonl", Char, b"")]), "neither a file nor a folder"),
        (packed(&[good, ("toy/other.jsonl", Regular, b"x")]), "entry toy/other.jsonl: it is no file of a known data set"),
        (packed(&[good, good]), "it is there twice"),
        (packed(&[good, ("toy/train.jsonl", Regular, b"{}")]), "its size is 2 bytes, but"),
        (packed(&[good, ("toy/train.jsonl", Regular, &[whole_train.clone(), b"x".to_vec()].concat())]), "are expected at most"),
        (packed(&[good, ("toy/train.jsonl", Regular, &vec![b'x'; whole_train.len()])]), "its sha256 is"),
        (packed(&[("toy/", Directory, b"")]), "it holds no file of a data set"),
        (whole[..whole.len() / 2].to_vec(), "it is damaged"),
        (b"no gzip at all".to_vec(), "it is damaged"),
        (Vec::new(), "it is damaged"),
    ];
    for (bytes, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (archive, cache) = (dir.path().join("a.tar.gz"), dir.path().join("deep/cache"));
        std::fs::write(&archive, bytes).unwrap();
        let error = archive::import(&archive, &cache, &pair()).unwrap_err();
        assert!(
            error.to_string().starts_with(&archive.display().to_string()) && error.to_string().contains(expected),
            "{expected}: {error}"
        );
        assert!(error.hint().is_some());
        let files: Vec<PathBuf> = tree(dir.path()).into_iter().filter(|path| !path.is_dir()).collect();
        assert_eq!(files, [archive], "{expected}");
        assert!(tree(&cache).is_empty(), "{expected}: {:?}", tree(&cache));
    }
    let dir = tempfile::tempdir().unwrap();
    let error = archive::import(&dir.path().join("none"), &dir.path().join("cache"), &pair()).unwrap_err();
    assert!(matches!(&error, DatasetError::ArchiveFile { action: "open", .. }), "{error}");
    std::fs::write(dir.path().join("file"), whole).unwrap();
    let error = archive::import(&dir.path().join("file"), &dir.path().join("file/cache"), &pair()).unwrap_err();
    assert!(matches!(&error, DatasetError::Cache { .. }), "{error}");
}
