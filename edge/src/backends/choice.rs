//! Which endpoint gets a request: of two drawn at random, the one with the lower load. One draw of two is nearly as good as asking all, and many gateways that
//! choose by the same figures do not all run to the same endpoint (M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).

/// One of so many, of those that are eligible; none when nobody is. `draw(n)` is in `0..n`.
pub(super) fn choose(
    count: usize,
    eligible: impl Fn(usize) -> bool,
    load: impl Fn(usize) -> f64,
    mut draw: impl FnMut(usize) -> usize,
) -> Option<usize> {
    let candidates = (0..count).filter(|&i| eligible(i)).count();
    // Between the two looks some may have come or gone; then there is one too few.
    let candidate = |nth: usize| (0..count).filter(|&i| eligible(i)).nth(nth);
    match candidates {
        0 => None,
        1 => candidate(0),
        _ => {
            let first = draw(candidates);
            let second = (first + 1 + draw(candidates - 1)) % candidates;
            match (candidate(first), candidate(second)) {
                (Some(first), Some(second)) => Some(if load(second) < load(first) { second } else { first }),
                (first, second) => first.or(second),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_the_one_with_the_lower_load_is_chosen() {
        let loads = [5.0, 1.0, 3.0];
        let chosen = |first, second| {
            let mut draws = [first, second].into_iter();
            choose(3, |_| true, |i| loads[i], |_| draws.next().unwrap())
        };
        assert_eq!(chosen(0, 0), Some(1), "0 against 1");
        assert_eq!(chosen(0, 1), Some(2), "0 against 2");
        assert_eq!(chosen(2, 1), Some(1), "2 against 1");
    }

    #[test]
    fn only_the_eligible_are_chosen_and_each_of_them_is() {
        for (eligible, count) in [(&[][..], 4), (&[2][..], 4), (&[1, 3][..], 4), (&[0, 1, 2, 3][..], 4), (&[][..], 0)] {
            let mut seen: Vec<_> =
                (0..1000).filter_map(|_| choose(count, |i| eligible.contains(&i), |_| 1.0, |n| fastrand::usize(..n))).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, eligible);
        }
    }
}
