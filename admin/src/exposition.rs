//! Joins the metrics of several processes into one text that Prometheus accepts (text format 0.0.4): each family once, with its samples together.

use std::collections::BTreeMap;

/// A metric's name, what is said of it, and its samples.
#[derive(Debug, Default)]
struct Family<'a> {
    help: Option<&'a str>,
    kind: Option<&'a str>,
    samples: Vec<&'a str>,
}

/// Joins texts. Of differing HELP and TYPE lines the first one stands; comments go.
#[must_use]
pub fn join(texts: &[String]) -> String {
    let mut families = BTreeMap::<&str, Family<'_>>::new();
    for text in texts {
        let mut current = "";
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                current = name(rest);
                families.entry(current).or_default().help.get_or_insert(line);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = name(rest);
                families.entry(current).or_default().kind.get_or_insert(line);
            } else if !line.starts_with('#') {
                let family = if belongs(line, current) { current } else { name(line) };
                families.entry(family).or_default().samples.push(line);
            }
        }
    }
    let mut joined = String::with_capacity(texts.iter().map(String::len).sum());
    for family in families.values().filter(|family| !family.samples.is_empty()) {
        for line in family.help.iter().chain(&family.kind).chain(&family.samples) {
            joined.push_str(line);
            joined.push('\n');
        }
    }
    joined
}

/// Up to the first character that no metric name has.
fn name(line: &str) -> &str {
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    &line[..end.unwrap_or(line.len())]
}

/// Whether the sample is of that family: its own name, or a part of a histogram or a summary.
fn belongs(sample: &str, family: &str) -> bool {
    name(sample).strip_prefix(family).is_some_and(|suffix| ["", "_bucket", "_sum", "_count"].contains(&suffix)) && !family.is_empty()
}

#[cfg(test)]
mod tests {
    use gatehouse_chassis::metrics::Metrics;

    use super::*;

    fn process(component: &str, instance: u32) -> String {
        let metrics = Metrics::new(component, instance);
        metrics.counters("things_total", "Things.", &["kind"]).with_label_values(&["a b {} \"q\" # HELP"]).inc();
        metrics.histograms("wait_seconds", "Waits.", &["by"]).with_label_values(&["x"]).observe(0.3);
        metrics.text()
    }

    #[test]
    fn each_family_stands_once_with_the_samples_of_all() {
        let texts = [process("edge", 0), process("pusher", 0), process("pusher", 1)];
        let joined = join(&texts);
        for family in ["things_total", "wait_seconds", "process_cpu_seconds_total"] {
            for kind in ["HELP", "TYPE"] {
                assert_eq!(joined.matches(&format!("# {kind} {family} ")).count(), 1, "{family}");
            }
        }
        let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples(&joined), texts.iter().map(|text| samples(text)).sum::<usize>());
        // Nothing of another family stands between two samples of one.
        let mut seen = Vec::<&str>::new();
        let mut current = "";
        for line in joined.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                current = name(rest);
                assert!(!seen.contains(&current), "{current}");
                seen.push(current);
            } else if !line.starts_with('#') {
                assert!(belongs(line, current), "{line} under {current}");
            }
        }
    }

    #[test]
    fn samples_without_a_head_and_families_without_samples_are_tolerated() {
        let texts = ["bare 1\n# HELP empty Nothing.\n# TYPE empty gauge\n\n# a comment\n".to_owned(), "bare{a=\"b\"} 2\r\n".to_owned()];
        assert_eq!(join(&texts), "bare 1\nbare{a=\"b\"} 2\n");
        assert_eq!(join(&[]), "");
    }
}
