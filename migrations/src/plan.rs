//! What is to be done to bring an owner's tables up to date. Pure.

/// One migration and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `0001_create_audit_events`.
    pub name: String,
    /// Its number, which orders them.
    pub version: i64,
    /// Not applied yet.
    pub pending: bool,
}

/// A database that this binary must not touch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It was migrated by a newer binary.
    #[error("the database has migration {0}, which this binary does not know: it is newer than this binary")]
    Newer(i64),
    /// What was applied is not what this binary would apply.
    #[error("migration {0} is not what was applied: its checksum differs")]
    Changed(String),
    /// Applied out of order: a gap before the newest.
    #[error("migration {0} was left out while a later one was applied")]
    Skipped(String),
}

/// Compares what is known (version, name, checksum; oldest first) with what was applied.
pub fn plan<'a>(known: impl IntoIterator<Item = (i64, &'a str, &'a [u8])>, applied: &[(i64, Vec<u8>)]) -> Result<Vec<Step>, Mismatch> {
    let known: Vec<_> = known.into_iter().collect();
    if let Some((version, _)) = applied.iter().find(|(version, _)| known.iter().all(|(known, ..)| known != version)) {
        return Err(Mismatch::Newer(*version));
    }
    let newest = applied.iter().map(|(version, _)| *version).max();
    let step = |(version, name, checksum): (i64, &str, &[u8])| match applied.iter().find(|(applied, _)| *applied == version) {
        Some((_, applied)) if applied != checksum => Err(Mismatch::Changed(name.to_owned())),
        None if newest.is_some_and(|newest| version < newest) => Err(Mismatch::Skipped(name.to_owned())),
        found => Ok(Step { name: name.to_owned(), version, pending: found.is_none() }),
    };
    known.into_iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [(i64, &str, &[u8]); 3] = [(1, "0001_a", b"A"), (4, "0004_b", b"B"), (5, "0005_c", b"C")];

    fn pending(applied: &[(i64, &[u8])]) -> Result<Vec<i64>, Mismatch> {
        let applied: Vec<_> = applied.iter().map(|(version, checksum)| (*version, checksum.to_vec())).collect();
        Ok(plan(KNOWN, &applied)?.iter().filter(|step| step.pending).map(|step| step.version).collect())
    }

    #[test]
    fn pending_is_what_comes_after_the_last_applied() {
        assert_eq!(pending(&[]), Ok(vec![1, 4, 5]));
        assert_eq!(pending(&[(1, b"A")]), Ok(vec![4, 5]));
        assert_eq!(pending(&[(1, b"A"), (4, b"B"), (5, b"C")]), Ok(vec![]));
    }

    #[test]
    fn a_database_that_does_not_fit_is_refused_with_the_cause() {
        assert_eq!(pending(&[(1, b"A"), (9, b"Z")]), Err(Mismatch::Newer(9)));
        assert_eq!(pending(&[(1, b"changed")]), Err(Mismatch::Changed("0001_a".into())));
        assert_eq!(pending(&[(1, b"A"), (5, b"C")]), Err(Mismatch::Skipped("0004_b".into())));
    }
}
