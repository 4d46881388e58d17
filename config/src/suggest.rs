//! What somebody who misspelt a name most likely meant.

/// The one of `names` that is most like `name`, if any is like it at all.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > LONGEST {
        return None;
    }
    names
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= tolerance(name, known))
        .min()
        .map(|(_, known)| known)
}

/// The most typing mistakes that leave the shorter of two words recognisable.
fn tolerance(name: &str, known: &str) -> usize {
    (name.len().min(known.len()) / 3).clamp(1, 4)
}

/// The one of the settings' `paths` that is most like `path`: a neighbour of a like name, or one
/// of that very name elsewhere.
pub(crate) fn setting(path: &str, paths: &[String]) -> Option<String> {
    let (section, name) = split(path);
    let prefixes = paths.iter().flat_map(|path| prefixes(path)).collect::<Vec<_>>();
    let neighbours = prefixes.iter().copied().filter(|known| split(known).0 == section);

    nearest(name, neighbours.map(|known| split(known).1))
        .map(|neighbour| {
            if section.is_empty() { neighbour.to_owned() } else { format!("{section}.{neighbour}") }
        })
        .or_else(|| {
            prefixes.iter().find(|known| split(known).1 == name).map(|known| (*known).to_owned())
        })
        .or_else(|| nearest(path, prefixes.iter().copied()).map(str::to_owned))
}

/// The path itself and every section it lies in.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('.').filter_map(|(end, _)| path.get(..end)).chain([path])
}

/// The section and the name in it.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

/// More than any name of ours has, in bytes. The comparison takes the product of two lengths.
const LONGEST: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_recognised() {
        let names = ["MEMORIC_ENCRYPTION_KEY", "MEMORIC_JWT_SECRET"];

        assert_eq!(nearest("MEMORIC_ENCRYPTON_KEY", names), Some("MEMORIC_ENCRYPTION_KEY"));
        assert_eq!(nearest("MEMORIC_SECRET_JWT", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest(&"MEMORIC_ENCRYPTION_KEY".repeat(10_000), names), None);
    }

    #[test]
    fn a_setting_is_sought_among_its_neighbours_first_and_then_everywhere() {
        let paths =
            ["privacy.encrypt_content", "gateway.limits.keys", "observability.logging.level"]
                .map(str::to_owned);

        for (path, meant) in [
            ("privacy.encrypt_contents", Some("privacy.encrypt_content")),
            ("privcy", Some("privacy")),
            ("gateway.limit", Some("gateway.limits")),
            ("encrypt_content", Some("privacy.encrypt_content")),
            ("logging", Some("observability.logging")),
            ("gateway.logging", Some("observability.logging")),
            ("storage", None),
        ] {
            assert_eq!(setting(path, &paths).as_deref(), meant, "{path}");
        }
    }
}
