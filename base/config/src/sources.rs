//! The texts a config is made of, and everything else from outside that its check depends on.
//!
//! [`load`] reads; [`crate::check`] works on what was read. So another process can check the
//! very same config without the right to open a single file.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::limits;
use crate::node::{Node, Value as NodeValue};
use crate::problems::Problems;
use crate::report::Report;
use crate::{fill, glob, yaml};

/// What [`load`] read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources {
    /// The main file first, then what it includes.
    pub(crate) files: Vec<SourceFile>,
    /// Pattern of an `include`, made absolute, to the files it stands for.
    pub(crate) includes: BTreeMap<PathBuf, Result<Vec<usize>, String>>,
    /// Files with user names and password hashes, and with keys of tokens, by absolute path.
    pub(crate) attached: BTreeMap<PathBuf, Result<usize, String>>,
    /// The environment variables that the files name; `None` where not set.
    pub(crate) environment: BTreeMap<String, Option<String>>,
    /// Default of `control`.
    pub(crate) control: PathBuf,
    /// Default of `workers`.
    pub(crate) processors: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SourceFile {
    /// As messages name it.
    pub(crate) name: PathBuf,
    /// Absolute; what relative paths in the file start from.
    pub(crate) directory: PathBuf,
    pub(crate) text: String,
    /// Password hashes are not repeated in messages.
    pub(crate) secret: bool,
}

impl SourceFile {
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(self.name.file_name().unwrap_or_default())
    }

    /// A line by its number from 1; empty where there is none.
    pub(crate) fn line(&self, number: u32) -> String {
        if self.secret || number == 0 {
            return String::new();
        }
        let text = self.text.strip_prefix('\u{feff}').unwrap_or(&self.text);
        let mut lines = text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'));
        lines.nth(number as usize - 1).unwrap_or_default().to_owned()
    }
}

/// Reads a config file, what it includes, and the files with user names.
///
/// # Errors
/// Only when the main file cannot be read; everything else is reported by [`crate::check`],
/// together with all other problems.
pub fn load(path: &Path) -> Result<Sources, Report> {
    let absolute = std::path::absolute(path).map_err(|error| unreadable(path, &error.to_string()))?;
    let text = read_text(&absolute).map_err(|message| unreadable(path, &message))?;
    let directory = parent(&absolute);
    let mut sources = Sources {
        files: vec![SourceFile { name: path.to_owned(), directory: directory.clone(), text, secret: false }],
        control: default_control(path),
        processors: processors(),
        ..Sources::default()
    };
    // Problems are found again by `check`, so the first look keeps none.
    let mut ignored = Problems::default();
    let Some(tree) = sources.files.first().and_then(|file| yaml::parse(&file.text, 0, &mut ignored)) else {
        return Ok(sources);
    };
    sources.remember_environment(&tree);
    let mut trees = vec![tree];
    for pattern in include_patterns(trees.first()) {
        let pattern = sources.filled(&pattern);
        let shown_parent = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
        sources.include(&pattern, &directory, &shown_parent, &mut trees);
    }
    for (index, tree) in trees.iter().enumerate() {
        sources.attach(tree, index);
    }
    Ok(sources)
}

/// Where the running instance of a config file listens for the command line, when the file
/// does not say: in the runtime directory, named after the file's canonical path.
pub fn default_control(path: &Path) -> PathBuf {
    let canonical =
        std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned());
    let user = rustix::process::geteuid();
    let directory = if user.is_root() {
        PathBuf::from("/run/sumun")
    } else {
        match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
            Some(directory) if directory.is_absolute() => directory.join("sumun"),
            _ => PathBuf::from(format!("/tmp/sumun-{}", user.as_raw())),
        }
    };
    directory.join(format!("{:016x}.sock", fnv1a(canonical.as_os_str().as_bytes())))
}

/// FNV-1a with 64 bits: short, stable between versions, and nobody gains by a collision here.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

fn unreadable(path: &Path, message: &str) -> Report {
    Report::of_file(
        path,
        format!("the config file cannot be read: {message}"),
        Some("name another one with -c FILE".to_owned()),
    )
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or_else(|| Path::new("/")).to_owned()
}

/// The text of a regular file, or what is wrong with it in a few words.
fn read_text(path: &Path) -> Result<String, String> {
    let file = sumun_host::files::open_regular(path).map_err(|error| crate::host_error(&error))?;
    let mut bytes = Vec::new();
    file.take(limits::FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| crate::host_error(&error))?;
    if bytes.len() as u64 > limits::FILE_BYTES {
        return Err(format!("it is larger than {} MiB", limits::FILE_BYTES / (1024 * 1024)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(good).filter(|byte| **byte == b'\n').count() + 1;
        format!("it is not UTF-8 text (line {line})")
    })
}

/// The texts of the `include` key, as written.
pub(crate) fn include_patterns(tree: Option<&Node>) -> Vec<String> {
    let nodes = tree.and_then(|tree| tree.find("include")).map(Node::one_or_list).unwrap_or_default();
    nodes.iter().filter_map(Node::scalar).map(|scalar| scalar.text.clone()).collect()
}

/// The paths of `file` in the keys of rate limits, as written.
fn key_files(tree: &Node, found: &mut Vec<String>) {
    for limit in tree.find("limits").map(Node::entries).unwrap_or_default() {
        let file = limit.value.find("key").and_then(|key| key.find("file"));
        found.extend(file.and_then(Node::scalar).map(|scalar| scalar.text.clone()));
    }
}

/// The paths of `basic_auth: { file: … }` anywhere in a tree, as written.
fn user_files(node: &Node, found: &mut Vec<String>) {
    match &node.value {
        NodeValue::Scalar(_) => {}
        NodeValue::List(items) => items.iter().for_each(|item| user_files(item, found)),
        NodeValue::Map(entries) => {
            for entry in entries {
                if entry.key == "basic_auth"
                    && let Some(scalar) = entry.value.find("file").and_then(Node::scalar)
                {
                    found.push(scalar.text.clone());
                }
                user_files(&entry.value, found);
            }
        }
    }
}

impl Sources {
    /// One text without any file beside it; relative paths start at the current directory.
    pub fn of_text(name: &str, text: &str) -> Self {
        let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let mut sources = Self {
            files: vec![SourceFile { name: PathBuf::from(name), directory, text: text.to_owned(), secret: false }],
            control: default_control(Path::new(name)),
            processors: processors(),
            ..Self::default()
        };
        if let Some(tree) = yaml::parse(text, 0, &mut Problems::default()) {
            sources.remember_environment(&tree);
        }
        sources
    }

    /// For another process; the opposite of [`Sources::from_json`].
    pub fn to_json(&self) -> Value {
        // Paths need not be UTF-8, so they travel as numbers of their bytes where they are not.
        let files: Vec<Value> = self
            .files
            .iter()
            .map(|file| {
                json!({
                    "name": path_to_json(&file.name),
                    "directory": path_to_json(&file.directory),
                    "text": file.text,
                    "secret": file.secret,
                })
            })
            .collect();
        let includes: Vec<Value> = self
            .includes
            .iter()
            .map(|(pattern, found)| match found {
                Ok(files) => json!({ "pattern": path_to_json(pattern), "files": files }),
                Err(message) => json!({ "pattern": path_to_json(pattern), "error": message }),
            })
            .collect();
        let attached: Vec<Value> = self
            .attached
            .iter()
            .map(|(path, found)| match found {
                Ok(file) => json!({ "path": path_to_json(path), "file": file }),
                Err(message) => json!({ "path": path_to_json(path), "error": message }),
            })
            .collect();
        json!({
            "files": files,
            "includes": includes,
            "attached": attached,
            "environment": self.environment,
            "control": path_to_json(&self.control),
            "processors": self.processors,
        })
    }

    /// # Errors
    /// A few words, when the value was not made by [`Sources::to_json`].
    pub fn from_json(value: &Value) -> Result<Self, String> {
        decode(value).ok_or_else(|| "these are no config sources".to_owned())
    }

    fn remember_environment(&mut self, tree: &Node) {
        for name in fill::names(tree) {
            let value = std::env::var_os(&name).and_then(|value| value.into_string().ok());
            self.environment.insert(name, value);
        }
    }

    /// A text with its environment variables filled in; unset ones stay, `check` reports them.
    fn filled(&self, text: &str) -> String {
        fill::fill(text, &self.environment).unwrap_or_else(|_| text.to_owned())
    }

    fn include(&mut self, pattern: &str, directory: &Path, shown_parent: &Path, trees: &mut Vec<Node>) {
        let absolute = directory.join(pattern);
        if self.includes.contains_key(&absolute) {
            return;
        }
        let found = glob::expand(&absolute).and_then(|paths| {
            if self.files.len() + paths.len() > limits::INCLUDED_FILES {
                return Err(format!("more than {} files are included", limits::INCLUDED_FILES));
            }
            let mut indices = Vec::new();
            for path in paths {
                match self.files.iter().position(|file| file.path() == path) {
                    // `*.yaml` beside the main file means the others.
                    Some(0) => continue,
                    Some(index) => {
                        indices.push(index);
                        continue;
                    }
                    None => {}
                }
                let text = read_text(&path).map_err(|message| format!("{}: {message}", path.display()))?;
                let name = match path.strip_prefix(directory) {
                    Ok(below) => shown_parent.join(below),
                    Err(_) => path.clone(),
                };
                let index = self.files.len();
                if let Some(tree) = yaml::parse(&text, index, &mut Problems::default()) {
                    self.remember_environment(&tree);
                    trees.push(tree);
                }
                self.files.push(SourceFile { name, directory: parent(&path), text, secret: false });
                indices.push(index);
            }
            Ok(indices)
        });
        self.includes.insert(absolute, found);
    }

    fn attach(&mut self, tree: &Node, file: usize) {
        let Some(directory) =
            self.files.get(tree.place.file).or_else(|| self.files.get(file)).map(|file| file.directory.clone())
        else {
            return;
        };
        let mut written = Vec::new();
        user_files(tree, &mut written);
        key_files(tree, &mut written);
        for text in written {
            let text = self.filled(&text);
            let path = directory.join(&text);
            if self.attached.contains_key(&path) {
                continue;
            }
            let found = if self.attached.len() >= limits::INCLUDED_FILES {
                Err(format!("more than {} files with user names", limits::INCLUDED_FILES))
            } else {
                read_text(&path).map(|text| {
                    let name = PathBuf::from(&path);
                    self.files.push(SourceFile { name, directory: parent(&path), text, secret: true });
                    self.files.len() - 1
                })
            };
            self.attached.insert(path, found);
        }
    }
}

fn path_to_json(path: &Path) -> Value {
    match path.to_str() {
        Some(text) => json!(text),
        None => json!(path.as_os_str().as_bytes()),
    }
}

fn path_from_json(value: &Value) -> Option<PathBuf> {
    if let Some(text) = value.as_str() {
        return Some(PathBuf::from(text));
    }
    let bytes: Option<Vec<u8>> =
        value.as_array()?.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(&bytes?)))
}

fn decode(value: &Value) -> Option<Sources> {
    let mut sources = Sources {
        control: path_from_json(value.get("control")?)?,
        processors: usize::try_from(value.get("processors")?.as_u64()?).ok()?,
        ..Sources::default()
    };
    for file in value.get("files")?.as_array()? {
        sources.files.push(SourceFile {
            name: path_from_json(file.get("name")?)?,
            directory: path_from_json(file.get("directory")?)?,
            text: file.get("text")?.as_str()?.to_owned(),
            secret: file.get("secret")?.as_bool()?,
        });
    }
    let index = |value: &Value| usize::try_from(value.as_u64()?).ok().filter(|index| *index < sources.files.len());
    let mut includes = BTreeMap::new();
    for include in value.get("includes")?.as_array()? {
        let found = match include.get("error").and_then(Value::as_str) {
            Some(message) => Err(message.to_owned()),
            None => Ok(include.get("files")?.as_array()?.iter().map(&index).collect::<Option<Vec<_>>>()?),
        };
        includes.insert(path_from_json(include.get("pattern")?)?, found);
    }
    let mut attached = BTreeMap::new();
    for file in value.get("attached")?.as_array()? {
        let found = match file.get("error").and_then(Value::as_str) {
            Some(message) => Err(message.to_owned()),
            None => Ok(index(file.get("file")?)?),
        };
        attached.insert(path_from_json(file.get("path")?)?, found);
    }
    for (name, value) in value.get("environment")?.as_object()? {
        sources.environment.insert(name.clone(), value.as_str().map(str::to_owned));
    }
    sources.includes = includes;
    sources.attached = attached;
    Some(sources)
}
