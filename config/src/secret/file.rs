//! Secrets that rest in files, as containers and systemd hand them over.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path},
};

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::error::ConfigError;

/// Reads the secret that `variable` says rests at `path`, less one newline at its end.
pub(crate) fn read(variable: &str, path: &str) -> Result<SecretString, ConfigError> {
    let shown = shown(path);
    let refuse = |reason: &str| ConfigError::variable(variable, format!("{shown} {reason}"));
    if path.is_empty() {
        return Err(ConfigError::variable(variable, "is set and empty"));
    }

    let text = text(Path::new(path), variable)
        .map_err(|error| refuse(&format!("could not be read: {error}")))?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    match secret {
        "" => Err(refuse("is empty")),
        secret => Ok(SecretString::from(secret)),
    }
}

fn text(path: &Path, variable: &str) -> io::Result<Zeroizing<String>> {
    let bytes = bytes(path, variable)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "not UTF-8 text")),
    }
}

/// What rests at `path`, which is the secret `what`.
pub(crate) fn bytes(path: &Path, what: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        // Kubernetes mounts secrets readable to all: worth a word, not a refusal.
        let mode = format_args!("{:04o}", metadata.mode() & 0o7777);
        tracing::warn!(what, path = %path.display(), %mode, "secret file is open to others");
    }

    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST));
    file.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LONGEST {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(bytes)
}

/// The path, unless it may be a secret that was put where its file's name belongs.
fn shown(path: &str) -> &str {
    let folders = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
    if path.starts_with('/') && folders.count() >= 2 { path } else { "the file it names" }
}

/// More than any secret has, in bytes.
const LONGEST: usize = 65_536;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use secrecy::ExposeSecret as _;
    use tempfile::{TempDir, tempdir};

    use super::*;

    const NAME: &str = "MEMORIC_JWT_SECRET_FILE";

    #[test]
    fn one_newline_at_the_end_is_not_part_of_the_secret() {
        let secrets = [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret")];
        for (text, secret) in
            secrets.into_iter().chain([("s3cret\n\n", "s3cret\n"), (" s ", " s ")])
        {
            let (_folder, path) = file(text.as_bytes());
            assert_eq!(read(NAME, &path).unwrap().expose_secret(), secret, "{text:?}");
        }
    }

    #[test]
    fn a_file_as_kubernetes_mounts_it_is_read() {
        let (_folder, path) = file(b"s3cret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();

        assert_eq!(read(NAME, &path).unwrap().expose_secret(), "s3cret");
    }

    #[test]
    fn an_empty_or_unreadable_file_is_refused_by_variable_path_and_reason() {
        let (folder, empty) = file(b"\n");
        let missing = format!("{}/secrets/missing", folder.path().display());
        let (_other, bytes) = file(b"\xff\xfe");
        let (_third, long) = file(&[b'a'; LONGEST + 1]);
        let directory = folder.path().display().to_string();

        for (path, reason) in [
            (&empty, "is empty"),
            (&missing, "could not be read: No such file"),
            (&bytes, "could not be read: not UTF-8 text"),
            (&long, "could not be read: file too large"),
            (&directory, "could not be read: is a directory"),
        ] {
            let refusal = read(NAME, path).unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("{NAME}: {path} {reason}")), "{refusal}");
        }
    }

    #[test]
    fn a_secret_in_the_place_of_a_path_is_not_repeated() {
        for secret in ["3f1d9c0a7be24586d0c9e7b1a35f2846", "/k1zVb9Qx+0==", "hunter2/hunter2"] {
            let refusal = read(NAME, secret).unwrap_err().to_string();
            assert!(!refusal.contains(secret), "{refusal}");
        }
    }

    fn file(bytes: &[u8]) -> (TempDir, String) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, bytes).unwrap();
        (folder, path.display().to_string())
    }
}
