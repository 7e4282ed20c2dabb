//! A table of figures, for people or as JSON.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

/// One measurement: rows of named figures.
#[derive(Debug, Default)]
pub struct Report {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<f64>)>,
    /// Operations that failed; a run with errors is no result.
    pub errors: u64,
}

impl Report {
    /// With one column for each name.
    #[must_use]
    pub fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self { title: title.into(), columns: columns.to_vec(), ..Self::default() }
    }

    /// Adds a row with a figure for each column.
    pub fn row(&mut self, name: impl Into<String>, figures: &[f64]) {
        assert_eq!(figures.len(), self.columns.len());
        self.rows.push((name.into(), figures.to_vec()));
    }

    /// Adds a row of the medians of several rounds.
    pub fn medians(&mut self, name: impl Into<String>, rounds: &[Vec<f64>]) {
        let column = |i: usize| median(rounds.iter().map(|round| round[i]).collect());
        let figures: Vec<_> = (0..self.columns.len()).map(column).collect();
        self.row(name, &figures);
    }

    /// To stdout.
    pub fn print(&self, as_json: bool) {
        if as_json {
            let row = |(name, figures): &(String, Vec<f64>)| {
                let figures = self.columns.iter().zip(figures).map(|(column, figure)| ((*column).to_owned(), json!(figure)));
                (name.clone(), Value::Object(figures.collect()))
            };
            let rows: Map<_, _> = self.rows.iter().map(row).collect();
            println!("{}", json!({ "title": self.title, "errors": self.errors, "rows": rows }));
            return;
        }
        println!("{}", self.title);
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header([&[""], &self.columns[..]].concat());
        for (name, figures) in &self.rows {
            table.add_row([name.clone()].into_iter().chain(figures.iter().map(|figure| figure_text(*figure))));
        }
        for i in 1..=self.columns.len() {
            table.column_mut(i).unwrap().set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
        if self.errors > 0 {
            println!("{} operations failed: no result", self.errors);
        }
    }
}

/// Three digits that mean something.
fn figure_text(figure: f64) -> String {
    match figure.abs() {
        _ if figure.is_nan() => "-".to_owned(),
        // Counts have no digits behind the point.
        size if figure.fract() == 0.0 && size < 1e9 => format!("{figure:.0}"),
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// Of an even number, the upper of the middle two.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_not_moved_by_one_outlier() {
        assert!((median(vec![3.0, 900.0, 2.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!([0.5, 12.345, 48_213.7].map(figure_text), ["0.50", "12.3", "48214"]);
        assert_eq!([0.0, 7.0, f64::NAN].map(figure_text), ["0", "7", "-"]);
    }
}
