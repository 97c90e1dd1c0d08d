//! Models and tokenizers: a directory, or an id of the Hugging Face hub that becomes one.
//!
//! The cache is the one that Python's huggingface_hub and hf-hub use (hf-hub's [`Cache`] knows its layout), so that a model is downloaded
//! once for all programs. The download itself is [`super::fetch`]'s: a shard is resumed, verified against the hash that the hub names and only
//! then visible, which hf-hub's own download does not do. Not here: reading what is in the files.

mod error;

pub use error::{HubError, TokenSent};

use super::{
    DatasetError, Network,
    fetch::{self, Answer, CacheLock, Description, Patience, Progress, Source, Token, Wanted, without_user_info},
    manifest::DataFile,
    store::user_cache,
};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fmt,
    path::{Component, Path, PathBuf},
};

const PUBLIC_HUB: &str = "https://huggingface.co";
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// Which files are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Model,
    Tokenizer,
}

impl Part {
    /// Files that must be there, the one that decides about the commit first, and files that may be. Weights come on top.
    fn files(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Part::Model => (
                &["config.json", "tokenizer.json", "tokenizer_config.json"],
                &["generation_config.json", "special_tokens_map.json", "chat_template.jinja"],
            ),
            Part::Tokenizer => {
                (&["tokenizer.json", "tokenizer_config.json"], &["special_tokens_map.json", "chat_template.jinja", "config.json"])
            }
        }
    }
}

/// A hub and its cache on this machine.
#[derive(Clone)]
pub struct Hub {
    /// May hold user-info; messages show `shown`.
    endpoint: String,
    shown: String,
    /// `None` where no variable names a place for it; a model that is a directory needs none.
    cache: Option<Cache>,
    token: Option<Token>,
    network: Network,
    patience: Patience,
}

impl Hub {
    /// As the environment says, looked up with `env` (unset and empty are one): `HF_ENDPOINT`; `HF_HUB_CACHE`, `HF_HOME`; `HF_TOKEN`,
    /// `HUGGING_FACE_HUB_TOKEN` or the file that `hf auth login` writes; `HF_HUB_OFFLINE` and `TRANSFORMERS_OFFLINE` forbid the network even
    /// where `network` allows it.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>, network: Network) -> Hub {
        let home = env("HF_HOME").map(PathBuf::from).or_else(|| Some(user_cache(env)?.join("huggingface")));
        let cache = env("HF_HUB_CACHE").or_else(|| env("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub")));
        let file = || {
            let path = env("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join("token")))?;
            std::fs::read_to_string(path).ok().filter(|text| !text.trim().is_empty())
        };
        let token = env("HF_TOKEN").or_else(|| env("HUGGING_FACE_HUB_TOKEN")).or_else(file);
        let on = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str());
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().any(|name| env(name).is_some_and(on));
        let endpoint = env("HF_ENDPOINT").unwrap_or_else(|| PUBLIC_HUB.into()).trim_end_matches('/').to_owned();
        Hub {
            shown: without_user_info(&endpoint),
            endpoint,
            cache: cache.map(Cache::new),
            token: token.and_then(|text| Token::new(&text)),
            network: if offline { Network::Off } else { network },
            patience: Patience::default(),
        }
    }

    /// The same with another patience.
    pub fn patience(self, patience: Patience) -> Hub {
        Hub { patience, ..self }
    }

    /// The directory of a model: `name` itself when it is one, else the snapshot of that hub id with config, tokenizer and safetensors
    /// weights; `revision` is a branch, tag or commit, `main` unless given. A hub that cannot be reached is no error when all files are
    /// cached.
    ///
    /// # Errors
    /// [`DatasetError::Hub`], [`DatasetError::Download`], [`DatasetError::Cache`], [`DatasetError::Address`].
    pub fn model_dir(&self, name: &str, revision: Option<&str>, progress: &dyn Fn(Progress)) -> Result<PathBuf, DatasetError> {
        self.dir(name, revision, Part::Model, progress)
    }

    /// The same without weights.
    ///
    /// # Errors
    /// As [`Hub::model_dir`].
    pub fn tokenizer_dir(&self, name: &str, revision: Option<&str>, progress: &dyn Fn(Progress)) -> Result<PathBuf, DatasetError> {
        self.dir(name, revision, Part::Tokenizer, progress)
    }

    fn dir(&self, name: &str, revision: Option<&str>, part: Part, progress: &dyn Fn(Progress)) -> Result<PathBuf, DatasetError> {
        if Path::new(name).is_dir() {
            return Ok(PathBuf::from(name));
        }
        if !is_id(name) {
            return Err(HubError::Neither { name: name.to_owned() }.into());
        }
        let revision = revision.unwrap_or("main");
        if !is_revision(revision) {
            return Err(HubError::Revision { revision: revision.to_owned() }.into());
        }
        if self.network == Network::Off {
            return self.cached(name, revision, part);
        }
        match self.download(name, revision, part, progress) {
            Err(DatasetError::Hub(error @ HubError::NoAnswer { .. })) => match self.cached(name, revision, part) {
                Ok(dir) => {
                    progress(Progress::Cached { why: error.to_string() });
                    Ok(dir)
                }
                Err(_) => Err(error.into()),
            },
            other => other,
        }
    }

    fn cache(&self) -> Result<&Cache, DatasetError> {
        self.cache.as_ref().ok_or(DatasetError::NoHome { tried: "HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and HOME" })
    }

    fn repo(&self, id: &str, revision: &str) -> Result<CacheRepo, DatasetError> {
        Ok(self.cache()?.repo(Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned())))
    }

    /// The snapshot in the cache, if it is complete.
    fn cached(&self, id: &str, revision: &str, part: Part) -> Result<PathBuf, DatasetError> {
        let (repo, cache) = (self.repo(id, revision)?, self.cache()?.path());
        let not_cached = |file: String| HubError::NotCached { id: id.into(), revision: revision.into(), file, cache: cache.clone() };
        let (needed, _) = part.files();
        let by_commit = Some(repo.pointer_path(revision)).filter(|path| path.is_dir());
        let by_name = || repo.get(needed[0]).and_then(|path| path.parent().map(Path::to_owned));
        let dir = by_commit.or_else(by_name).ok_or_else(|| not_cached(needed[0].into()))?;
        let mut files: Vec<String> = needed.iter().map(|&file| file.to_owned()).collect();
        if part == Part::Model {
            files.extend(if dir.join(INDEX).is_file() { shards(&dir.join(INDEX))? } else { vec![SINGLE.into()] });
        }
        match files.into_iter().find(|file| !dir.join(file).is_file()) {
            Some(file) => Err(not_cached(file).into()),
            None => Ok(dir),
        }
    }

    fn download(&self, id: &str, revision: &str, part: Part, progress: &dyn Fn(Progress)) -> Result<PathBuf, DatasetError> {
        let (needed, optional) = part.files();
        let lacks = |file: &str| {
            let (endpoint, id, revision) = (self.shown.clone(), id.to_owned(), revision.to_owned());
            DatasetError::Hub(HubError::NoFile { endpoint, id, revision, file: file.to_owned() })
        };
        let repo = self.repo(id, revision)?;
        // The branch is read once: all files are of the commit that it names now.
        let first = self.describe(id, revision, &needed[..1])?.pop().flatten();
        let commit = first.ok_or_else(|| lacks(needed[0]))?.commit;
        let dir = repo.pointer_path(&commit);
        let lock = CacheLock::take(repository(&dir), progress)?;
        let snapshot = Snapshot { hub: self, id, commit: &commit, dir: &dir, lock, progress };
        let all_of = |names: &[&str]| snapshot.bring(names)?.first().map_or(Ok(()), |lacking| Err(lacks(lacking)));

        all_of(needed)?;
        snapshot.bring(optional)?;
        if part == Part::Model && (dir.join(INDEX).exists() || !snapshot.bring(&[SINGLE])?.is_empty()) {
            if !snapshot.bring(&[INDEX])?.is_empty() {
                return Err(lacks(&format!("{SINGLE} and no {INDEX}")));
            }
            let names = shards(&dir.join(INDEX))?;
            all_of(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        // Last, so that the name never leads to a snapshot that is not whole.
        if revision != commit {
            repo.create_ref(&commit).map_err(DatasetError::cache("write a reference in", repository(&dir)))?;
        }
        Ok(dir)
    }

    /// What the hub says of these files; `None` for one that the repository does not have.
    fn describe(&self, id: &str, revision: &str, names: &[&str]) -> Result<Vec<Option<Description>>, DatasetError> {
        let urls: Vec<String> = names.iter().map(|name| self.url(id, revision, name)).collect();
        let answers = fetch::describe(&urls, self.token.as_ref(), self.patience)?;
        let read = |(name, answer): (&&str, Answer)| self.read(id, revision, name, answer);
        Ok(names.iter().zip(answers).map(read).collect::<Result<_, _>>()?)
    }

    fn read(&self, id: &str, revision: &str, name: &str, answer: Answer) -> Result<Option<Description>, HubError> {
        let (endpoint, id) = (self.shown.clone(), id.to_owned());
        match answer {
            Answer::Found(description) => Ok(Some(description)),
            Answer::Failed(fault) => Err(HubError::NoAnswer { endpoint, id, fault }),
            Answer::NoHub(header) => Err(HubError::NoHub { endpoint, what: format!("no {header} for {name} of {id}") }),
            Answer::Refused(status, code) => match (status, code.as_deref()) {
                (_, Some("RepoNotFound" | "RevisionNotFound")) => {
                    Err(HubError::NoModel { endpoint, id, revision: revision.to_owned(), status })
                }
                (404, _) => Ok(None),
                _ => {
                    let token = if self.token.is_some() { TokenSent::Yes } else { TokenSent::No };
                    Err(HubError::Denied { endpoint, id, status, token })
                }
            },
        }
    }

    fn url(&self, id: &str, revision: &str, name: &str) -> String {
        format!("{}/{id}/resolve/{}/{name}", self.endpoint, revision.replace('/', "%2F").replace('#', "%23"))
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("endpoint", &self.shown).field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// A commit of a repository, on its way into the cache.
struct Snapshot<'a> {
    hub: &'a Hub,
    id: &'a str,
    commit: &'a str,
    dir: &'a Path,
    lock: CacheLock,
    progress: &'a dyn Fn(Progress),
}

/// `models--org--name`; a snapshot is two levels below.
fn repository(snapshot: &Path) -> &Path {
    snapshot.ancestors().nth(2).unwrap_or(snapshot)
}

impl Snapshot<'_> {
    /// Has those of these files in the snapshot that the repository has, and returns the names of the others. A file is a link to a blob,
    /// which is downloaded only where no other commit has brought it.
    fn bring<'n>(&self, names: &[&'n str]) -> Result<Vec<&'n str>, DatasetError> {
        let names: Vec<&str> = names.iter().copied().filter(|name| !self.dir.join(name).exists()).collect();
        let (mut lacking, mut found) = (Vec::new(), Vec::new());
        for (name, description) in names.iter().zip(self.hub.describe(self.id, self.commit, &names)?) {
            match description {
                Some(description) => found.push((*name, description)),
                None => lacking.push(*name),
            }
        }
        let missing = found.iter().filter(|(_, described)| !self.blob(&described.tag).exists());
        let wanted = missing.map(|(name, described)| self.wanted(name, described)).collect();
        fetch::all(wanted, &Source { base_url: None, patience: self.hub.patience }, &self.lock, self.progress)?;
        std::fs::create_dir_all(self.dir).map_err(DatasetError::cache("create directory", self.dir))?;
        for (name, Description { tag, .. }) in &found {
            let link = self.dir.join(name);
            // What is there is a link to a blob that was removed.
            let _ = std::fs::remove_file(&link);
            place(&self.blob(tag), tag, &link).map_err(DatasetError::cache("create", &link))?;
        }
        Ok(lacking)
    }

    fn blob(&self, tag: &str) -> PathBuf {
        repository(self.dir).join("blobs").join(tag)
    }

    fn wanted(&self, name: &str, Description { tag, bytes, .. }: &Description) -> Wanted {
        let file = DataFile {
            member: None,
            split: String::new(),
            path: name.to_owned(),
            url: Some(self.hub.url(self.id, self.commit, name)),
            field: None,
            bytes: *bytes,
            sha256: is_hex(tag, 64).then(|| tag.clone()),
            git_blob: is_hex(tag, 40).then(|| tag.clone()),
            rows: None,
        };
        Wanted { of: format!("model {}", self.id), file, reader: None, target: self.blob(tag), token: self.hub.token.clone() }
    }
}

/// The cache may be moved as a whole: the link is relative.
#[cfg(unix)]
fn place(_blob: &Path, tag: &str, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(Path::new("../../blobs").join(tag), link)
}

#[cfg(not(unix))]
fn place(blob: &Path, _tag: &str, link: &Path) -> std::io::Result<()> {
    std::fs::hard_link(blob, link).or_else(|_| std::fs::copy(blob, link).map(drop))
}

/// Files that hold the weights, by their index; each once, in alphabetical order.
fn shards(index: &Path) -> Result<Vec<String>, DatasetError> {
    let broken = |cause: String| HubError::Index { path: index.to_owned(), cause };
    let text = std::fs::read(index).map_err(DatasetError::io("read", index))?;
    let parsed: Value = serde_json::from_slice(&text).map_err(|e| broken(e.to_string()))?;
    let map = parsed.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| broken("weight_map must be an object with at least one tensor".into()))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let plain = |name: &&str| matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        let name =
            file.as_str().filter(plain).ok_or_else(|| broken(format!("weight_map: {tensor} is in {file}, which is no file name")))?;
        names.insert(name.to_owned());
    }
    Ok(names.into_iter().collect())
}

/// `organisation/name`, in the characters that the hub allows (huggingface_hub 0.26, `utils/_validators.py`, `validate_repo_id`).
fn is_id(name: &str) -> bool {
    let part = |part: &str| {
        let allowed = part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        !part.is_empty() && allowed && !part.starts_with(['.', '-']) && !part.ends_with(['.', '-'])
    };
    name.len() <= 96 && !name.contains("--") && !name.contains("..") && name.split('/').count() == 2 && name.split('/').all(part)
}

/// What git allows in a reference's name, by `git check-ref-format`, as far as it could lead to another address or file.
fn is_revision(text: &str) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || "/._-+@#!".contains(c);
    let odd = text.contains("..") || text.contains("//") || text.starts_with(['/', '.', '-']) || text.ends_with(['/', '.']);
    !text.is_empty() && !odd && text.chars().all(allowed)
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.chars().all(|c| c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        for (name, expected) in [
            ("tokyotech-llm/Llama-3.1-Swallow-8B-Instruct-v0.1", true),
            ("a/b", true),
            ("gpt2", false),
            ("a/b/c", false),
            ("./a", false),
            ("../a", false),
            ("/a/b", false),
            ("a/", false),
            ("a/b--c", false),
            ("a/b c", false),
            ("", false),
        ] {
            assert_eq!(is_id(name), expected, "{name}");
        }
    }

    #[test]
    fn revisions_lead_nowhere_else() {
        for name in ["main", "v1.0", "refs/pr/1", "0123456789abcdef", "branch#2"] {
            assert!(is_revision(name), "{name}");
        }
        for name in ["", "..", "a/../b", "/etc", "a b", "main?x=1", "a\\b", "-f", "a//b", "main%2f", "a\n"] {
            assert!(!is_revision(name), "{name:?}");
        }
    }

    #[test]
    fn the_environment_is_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        let home = dir.path().to_str().unwrap();
        let hub = |variables: &[(&str, &str)]| {
            let env = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            Hub::from_env(&env, Network::Allowed)
        };
        let cache = |variables: &[(&str, &str)]| hub(variables).cache().map(|cache| cache.path().display().to_string());
        assert_eq!(cache(&[("HOME", "/me")]).unwrap(), "/me/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/me"), ("HF_HOME", "/hf")]).unwrap(), "/hf/hub");
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/hub")]).unwrap(), "/hub");
        assert!(matches!(cache(&[]), Err(DatasetError::NoHome { .. })));
        assert!(hub(&[]).model_dir(home, None, &|_| {}).is_ok(), "a directory needs no cache");
        assert!(matches!(hub(&[]).model_dir("org/name", None, &|_| {}), Err(DatasetError::NoHome { .. })));
        for (variables, network, token) in [
            (&[("HF_HOME", "/nowhere")][..], Network::Allowed, false),
            (&[("HF_HOME", home), ("HF_HUB_OFFLINE", "0")], Network::Allowed, true),
            (&[("HF_HOME", "/nowhere"), ("HF_TOKEN", "hf_x"), ("TRANSFORMERS_OFFLINE", "true")], Network::Off, true),
            (&[("HF_HOME", "/nowhere"), ("HUGGING_FACE_HUB_TOKEN", "hf_x"), ("HF_HUB_OFFLINE", "1")], Network::Off, true),
        ] {
            let hub = hub(variables);
            assert_eq!((hub.network, hub.token.is_some()), (network, token), "{variables:?}");
            assert!(!format!("{hub:?}").contains("hf_x"), "{hub:?}");
        }
        let hub = hub(&[("HF_HOME", "/hf"), ("HF_ENDPOINT", "https://mirror.example.com/")]);
        assert_eq!(hub.url("a/b", "refs/pr/1", "config.json"), "https://mirror.example.com/a/b/resolve/refs%2Fpr%2F1/config.json");
    }

    #[test]
    fn an_index_names_plain_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(INDEX);
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            shards(&path).map_err(|e| e.to_string())
        };
        assert_eq!(
            read(r#"{"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}"#).unwrap(),
            ["1.safetensors", "2.safetensors"]
        );
        for text in [
            "",
            "{}",
            r#"{"weight_map": {}}"#,
            r#"{"weight_map": {"a": 1}}"#,
            r#"{"weight_map": {"a": "../x"}}"#,
            r#"{"weight_map": {"a": "/etc/passwd"}}"#,
            r#"{"weight_map": {"a": "x/y"}}"#,
        ] {
            assert!(read(text).unwrap_err().starts_with(&path.display().to_string()), "{text}");
        }
    }
}
