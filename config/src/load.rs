//! From a file, the environment and flags to settings.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::{
    checks,
    environment::Environment,
    error::ConfigError,
    names::{self, Meaning, Names},
    origin::{Origin, Origins},
    schema::Settings,
    suggest,
    tree::{Fault, Node},
};

/// Settings, and where each was set.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings in force.
    pub settings: Settings,
    /// Where each was set.
    pub origins: Origins,
}

/// The settings in force: file < environment < flags.
///
/// Where no file is named, `MEMORIC_CONFIG` names it, or there is none. A flag is a setting's path
/// and its value, as [`flag`] reads them from the command line.
pub fn load(
    file: Option<&Path>,
    environment: &Environment,
    flags: &[(String, String)],
) -> Result<Settings, ConfigError> {
    load_traced(file, environment, flags).map(|loaded| loaded.settings)
}

/// The same, with where each setting was set.
pub fn load_traced(
    file: Option<&Path>,
    environment: &Environment,
    flags: &[(String, String)],
) -> Result<Loaded, ConfigError> {
    let mut tree = Node::defaults()?;
    let paths: Vec<_> = tree.leaves().into_iter().map(|(path, _)| path).collect();
    let file = file.map(Path::to_owned).or_else(|| environment.get(FILE).map(PathBuf::from));

    if let Some(file) = &file {
        let name = file.display().to_string();
        tree.overlay(Node::of_yaml(&name, &text(file, &name)?)?);
        // A mistake in the file is one even where a variable hides it.
        understand(&tree, &paths)?;
    }
    overlay_environment(&mut tree, environment, &paths)?;
    for (path, value) in flags {
        ensure_setting(path, &paths)?;
        tree.set(path, Node::raw(value, Origin::Flag));
    }

    let (settings, origins) = (understand(&tree, &paths)?, tree.origins());
    checks::ensure_possible(&settings).map_err(|invalid| origins.locate(invalid))?;
    Ok(Loaded { settings, origins })
}

/// Reads `path.to.setting=value`, the argument of `--set`.
pub(crate) fn flag(argument: &str) -> Result<(String, String), &'static str> {
    match argument.split_once('=') {
        Some((path, value)) if !path.trim().is_empty() => {
            Ok((path.trim().to_owned(), value.to_owned()))
        }
        Some(_) | None => Err("must be path.to.setting=value"),
    }
}

fn overlay_environment(
    tree: &mut Node,
    environment: &Environment,
    paths: &[String],
) -> Result<(), ConfigError> {
    let names = Names::new(paths.iter().map(String::as_str));
    let mut set: Vec<(&str, &str)> = Vec::new();
    for name in environment.names() {
        match names.meaning(name) {
            Some(Meaning::Other) => drop(environment.text(name)?),
            Some(Meaning::Setting(path)) => {
                let is_rival =
                    |(other, known): &&(&str, &str)| known == path && *other != names::CORS_ORIGIN;
                if let Some((other, _)) = set.iter().find(is_rival) {
                    let reason = format!("sets {path}, and so does {other}: set one");
                    return Err(ConfigError::variable(name, reason));
                }
                let value = environment.text(name)?.unwrap_or_default();
                tree.set(path, Node::raw(value, Origin::Variable(name.to_owned())));
                set.push((name, path));
            }
            None => ensure_not_ours(name, environment, &names)?,
        }
    }
    Ok(())
}

/// Refuses a flag that names no setting.
fn ensure_setting(path: &str, paths: &[String]) -> Result<(), ConfigError> {
    if paths.iter().any(|known| known == path) {
        return Ok(());
    }
    let is_inside =
        |known: &String| known.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    let (reason, nearest) = match paths.iter().find(|known| is_inside(known)) {
        Some(inside) => ("is a section of settings", Some(inside.clone())),
        None => ("unknown setting", suggest::setting(path, paths)),
    };
    let (origin, field, reason) = (Origin::Flag, path.to_owned(), reason.to_owned());
    Err(ConfigError::Setting { origin, field, reason, nearest })
}

/// Refuses a variable that looks like one of ours and is none: a misspelt secret would otherwise
/// be an absent one.
fn ensure_not_ours(
    name: &str,
    environment: &Environment,
    names: &Names,
) -> Result<(), ConfigError> {
    if !name.starts_with(names::PREFIX) {
        return Ok(());
    }
    let value = environment.text(name)?.unwrap_or_default();
    if names::is_of_kubernetes(name, value) {
        return Ok(());
    }
    Err(ConfigError::Variable {
        name: name.to_owned(),
        reason: "unknown variable".to_owned(),
        nearest: suggest::nearest(name, names.all()).map(str::to_owned),
    })
}

fn understand(tree: &Node, paths: &[String]) -> Result<Settings, ConfigError> {
    tree.settings().map_err(|Fault { path, origin, reason, is_unknown }| {
        let origin = origin.unwrap_or_else(|| tree.origin().clone());
        let nearest = if is_unknown { suggest::setting(&path, paths) } else { None };
        match path.as_str() {
            "" => ConfigError::Unclear { origin, reason },
            _ => ConfigError::Setting { origin, field: path, reason, nearest },
        }
    })
}

fn text(file: &Path, name: &str) -> Result<String, ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable { file: name.to_owned(), reason };
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes))
        .map_err(|error: io::Error| unreadable(format!("could not be read: {error}")))?;
    if bytes.len() as u64 > LONGEST {
        return Err(unreadable(format!("has more than {LONGEST} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| unreadable("is not UTF-8 text".to_owned()))
}

/// More than any file of settings has, in bytes.
const LONGEST: u64 = 1_048_576;

/// The variable that names the file.
const FILE: &str = "MEMORIC_CONFIG";

#[cfg(test)]
mod tests;
