//! `data`: which data sets there are, fetch them, verify them, carry them to another machine.

use super::{
    data_source,
    downloads::{Downloads, files},
    exit::{Exit, Failure, Verdict},
    output,
    progress::Show,
    settings,
};
use crate::dataset::{
    DatasetError, Network,
    archive::{self, Contents, Gaps},
    manifest::{DataFile, Form, Manifest},
    store::{Place, Store, StoreOptions},
};
use clap::Subcommand;
use indicatif::DecimalBytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::PathBuf,
};

/// `data` and what follows it. Without names, every data set is meant.
#[derive(Clone, Debug, Subcommand)]
pub enum DataCommand {
    /// Name, licence, size and place of every data set
    List,
    /// Download what is in neither SWALLOW_EVAL_DATA nor the cache
    Fetch {
        /// Data sets
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Replace scheme and host of every data-set URL (a mirror)
        #[arg(long, value_name = "URL")]
        data_url: Option<String>,
        /// Open no connection: only say what is missing
        #[arg(long)]
        offline: bool,
        /// No progress
        #[arg(long, short = 'q')]
        quiet: bool,
    },
    /// Read every file that is at hand and compare it with its manifest
    Verify {
        /// Data sets
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Write data sets to one archive, for a machine without a network
    Export {
        /// Archive to write, such as data.tar.gz; unpacked, it is a directory for SWALLOW_EVAL_DATA
        file: PathBuf,
        /// Data sets
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Verify an archive's files and put them into the cache
    Import {
        /// Archive that `data export` wrote
        file: PathBuf,
    },
}

/// Runs the verb.
///
/// # Errors
/// Exit 4: data is missing, differs, or cannot be fetched. Exit 2: no data set has the name, an address is none, or an archive cannot be
/// read or written.
pub(super) fn run(command: &DataCommand) -> Verdict {
    match command {
        DataCommand::List => list(),
        DataCommand::Fetch { names, data_url, offline, quiet } => {
            let store = data_source::files(data_source::network(*offline), data_url.as_ref());
            let show = if *quiet { Show::Nothing } else { Show::on_stderr() };
            fetch(&store, &chosen(names)?, show)
        }
        DataCommand::Verify { names } => verify(&local(), &chosen(names)?),
        DataCommand::Export { file, names } => {
            // What was asked for by name is all there or an error; without names it is what there is.
            let gaps = if names.is_empty() { Gaps::LeaveOut } else { Gaps::Refuse };
            let contents = archive::export(&local(), &chosen(names)?, gaps, file).map_err(failure)?;
            told(&format!("wrote {}", file.display()), &contents)
        }
        DataCommand::Import { file } => {
            let cache = StoreOptions::from_env(&settings::env, Network::Off).map_err(failure)?.cache;
            let contents = archive::import(file, &cache, &Manifest::all().map_err(failure)?).map_err(failure)?;
            told(&format!("verified and put into {}", cache.display()), &contents)
        }
    }
}

/// Files of this machine; no connection.
fn local() -> Store {
    data_source::files(Network::Off, None)
}

/// The named data sets, or all.
fn chosen(names: &[String]) -> Result<Vec<Manifest>, Failure> {
    if names.is_empty() {
        return Manifest::all().map_err(failure);
    }
    names.iter().map(|name| Manifest::builtin(name)).collect::<Result<_, _>>().map_err(failure)
}

/// Columns of a data set's name.
const NAME: usize = 17;

fn list() -> Verdict {
    let store = local();
    let mut text = String::new();
    let manifests = Manifest::all().map_err(failure)?;
    for manifest in &manifests {
        let _ =
            writeln!(text, "{:<NAME$} {:<16} {:>9}  {}", manifest.name, manifest.licence, size(&store, manifest), place(&store, manifest));
        let _ = writeln!(text, "{:<NAME$} {}, {}", "", manifest.title, manifest.homepage);
        if let Some(note) = licence_note(manifest) {
            let _ = writeln!(text, "{:<NAME$} note: {note}", "");
        }
    }
    output::tell(&text, NAME + 1)?;
    Ok(Exit::Ok)
}

/// Size of all files, of those whose manifest or place tells it.
fn size(store: &Store, manifest: &Manifest) -> String {
    let Some(form) = nearest(store, manifest) else { return String::new() };
    let at_hand = |file| Some(store.locate(file)?.1.metadata().ok()?.len());
    // An archive stands in the list once for each of its members.
    let paths: BTreeMap<&str, &DataFile> = form.files.iter().map(|file| (file.path.as_str(), file)).collect();
    let sizes: Vec<Option<u64>> = paths.values().map(|file| file.bytes.or_else(|| at_hand(file))).collect();
    let known = DecimalBytes(sizes.iter().flatten().sum()).to_string();
    if sizes.iter().all(Option::is_some) { known } else { format!("> {known}") }
}

/// `53 files in mirror`, `missing`, `1 of 2 files in cache`
pub(super) fn place(store: &Store, manifest: &Manifest) -> String {
    let Some(form) = nearest(store, manifest) else { return "no files".into() };
    let found: Vec<Place> = form.files.iter().filter_map(|file| store.locate(file)).map(|(place, _)| place).collect();
    let names: BTreeSet<&str> = found.iter().map(|place| if *place == Place::Mirror { "mirror" } else { "cache" }).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(" and ");
    match (found.len(), form.files.len()) {
        (0, _) => "missing".into(),
        (some, all) if some < all => format!("{some} of {} in {names}", files(all)),
        (_, all) => format!("{} in {names}", files(all)),
    }
}

/// The form of which most files are at hand.
fn nearest<'m>(store: &Store, manifest: &'m Manifest) -> Option<&'m Form> {
    manifest.form.iter().min_by_key(|form| form.files.iter().filter(|file| store.locate(file).is_none()).count())
}

/// What the licence asks for beyond its name, on one line.
fn licence_note(manifest: &Manifest) -> Option<String> {
    manifest.licence_note.as_ref().map(|note| note.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Every data set is tried, so that one that is gone does not hold up the others.
fn fetch(store: &Store, manifests: &[Manifest], show: Show) -> Verdict {
    let mut failures = Vec::new();
    for manifest in manifests {
        if let Some(note) = licence_note(manifest) {
            output::note(&format!("{}: {note}", manifest.name));
        }
        let downloads = Downloads::new(show, &manifest.name);
        let ended = store.ensure(manifest, &manifest.splits(), &|event| downloads.see(event));
        downloads.end();
        match ended {
            Ok(()) => output::print(&format!("{:<NAME$} {}\n", manifest.name, place(store, manifest)))?,
            // No other data set would fare better.
            Err(error @ (DatasetError::Cache { .. } | DatasetError::Client { .. } | DatasetError::Address { .. })) => {
                return Err(failure(error));
            }
            Err(error) => failures.push(error),
        }
    }
    all_or(failures, |count| format!("{count} of {} data sets could not be fetched", manifests.len()))
}

fn verify(store: &Store, manifests: &[Manifest]) -> Verdict {
    let (mut failures, mut verified) = (Vec::new(), 0);
    let mut first_missing = None;
    for manifest in manifests {
        let (mut here, mut bytes, mut wrong) = (0, 0, 0);
        // Missing files of each split, form by form.
        let mut gaps: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for (form, file) in manifest.form.iter().flat_map(|form| form.files.iter().map(move |file| (form, file))) {
            let gap = gaps.entry(&file.split).or_default().entry(&form.name).or_default();
            match store.verify(manifest, form, file) {
                Ok((_, size)) => (here, bytes) = (here + 1, bytes + size),
                Err(error @ DatasetError::Missing { .. }) => {
                    *gap += 1;
                    first_missing.get_or_insert(error);
                }
                Err(error) => {
                    wrong += 1;
                    failures.push(error);
                }
            }
        }
        verified += here;
        let mut line = format!("{:<NAME$} {} as pinned, {}", manifest.name, files(here), DecimalBytes(bytes));
        // What one form has whole is not missing, whatever the other forms lack.
        let missing: usize = gaps.values().filter_map(|forms| forms.values().min()).sum();
        for (count, what) in [(missing, "missing"), (wrong, "wrong")] {
            if count > 0 {
                line += &format!(", {count} {what}");
            }
        }
        output::print(&format!("{line}\n"))?;
    }
    match first_missing {
        Some(missing) if verified == 0 && failures.is_empty() => Err(failure(missing)),
        _ => all_or(failures, |count| format!("{} at hand cannot be used", files(count))),
    }
}

/// Success, the only failure, or all of them and how many there are.
fn all_or(mut failures: Vec<DatasetError>, summary: impl Fn(usize) -> String) -> Verdict {
    match (failures.len(), failures.pop()) {
        (_, None) => Ok(Exit::Ok),
        (1, Some(only)) => Err(failure(only)),
        (count, Some(last)) => {
            for error in failures.iter().chain([&last]) {
                output::complain(&format!("swallow-eval: {error}"));
            }
            Err(Failure { exit: Exit::Data, message: summary(count), hint: last.hint() })
        }
    }
}

fn told(done: &str, contents: &Contents) -> Verdict {
    for path in &contents.missing {
        output::note(&format!("{path} is not at hand and left out"));
    }
    output::print(&format!("{}, {}: {done}\n", files(contents.files.len()), DecimalBytes(contents.bytes)))?;
    Ok(Exit::Ok)
}

fn failure(error: DatasetError) -> Failure {
    let exit = match error {
        DatasetError::Unknown { .. } | DatasetError::Address { .. } | DatasetError::ArchiveFile { .. } => Exit::Usage,
        _ => Exit::Data,
    };
    Failure { exit, message: error.to_string(), hint: error.hint() }
}
