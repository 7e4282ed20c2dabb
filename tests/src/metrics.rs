//! Samples of the Prometheus text format, read by a parser of our own.

use std::collections::BTreeMap;

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric, with `_bucket`, `_sum`, `_count` where it has them.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// A scrape.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// Fails the test on a line that is none.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(|line| sample(line).unwrap_or_else(|| panic!("no sample: {line}"))).collect())
    }

    /// The sum over all samples of that name whose labels hold all of these.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|(key, value)| sample.labels.get(*key).map(String::as_str) == Some(*value))
        };
        // Not `sum`, whose sum of nothing is -0.
        self.0.iter().filter(fits).fold(0.0, |sum, sample| sum + sample.value)
    }

    /// Whether a metric of that name is there at all.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|sample| sample.name == name || sample.name.strip_suffix("_count") == Some(name))
    }

    /// The names of counters that grew since, with all their labels summed up.
    #[must_use]
    pub fn grown_since(&self, before: &Self) -> Vec<String> {
        let names: std::collections::BTreeSet<_> = self.0.iter().map(|sample| sample.name.clone()).collect();
        names.into_iter().filter(|name| self.sum(name, &[]) > before.sum(name, &[])).collect()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (head, value) = match line.rfind('}') {
        Some(end) => (&line[..end], line[end + 1..].split_whitespace().next()?),
        None => line.split_once(' ')?,
    };
    let (name, labels) = head.split_once('{').unwrap_or((head, ""));
    let mut parsed = BTreeMap::new();
    let mut rest = labels;
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        parsed.insert(key.to_owned(), value);
        rest = after[end + 1..].trim_start_matches(',');
    }
    Some(Sample { name: name.to_owned(), labels: parsed, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_and_without_labels() {
        let samples = Samples::parse("# HELP a b\na 1\nb{x=\"1\",y=\"a \\\"b\\\" } c\"} 2.5\nb{x=\"2\"} 3\n");
        assert_eq!((samples.sum("a", &[]), samples.sum("b", &[]), samples.sum("b", &[("x", "1")])), (1.0, 5.5, 2.5));
        assert_eq!(samples.0[1].labels["y"], "a \"b\" } c");
        assert_eq!(samples.grown_since(&Samples::parse("a 1\nb 5\n")), ["b"]);
    }
}
