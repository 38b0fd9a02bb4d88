//! Text recognisers: the probability of a text (connectionist temporal classification, Graves et al. 2006).

/// The natural logarithm of the probability that a recogniser assigns to a text: the sum over all alignments of
/// the text with the steps, where equal neighbouring symbols count once and symbol 0, the blank, is dropped.
///
/// `rows` are the steps, each with the probability of every symbol; `text` are symbols.
pub(super) fn log_probability(rows: &[f64], symbols: usize, text: &[usize]) -> f64 {
    // The text with a blank before, between and after its symbols.
    let states: Vec<usize> = (0..2 * text.len() + 1).map(|at| if at % 2 == 0 { 0 } else { text[at / 2] }).collect();
    // Before the first step nothing is written, as if at the first blank.
    let mut before = vec![f64::NEG_INFINITY; states.len()];
    before[0] = 0.0;
    for row in rows.chunks(symbols) {
        let come_to = |at: usize| {
            let stay = before[at];
            let step = if at >= 1 { before[at - 1] } else { f64::NEG_INFINITY };
            // A blank can be skipped only between different symbols.
            let may_skip = at >= 2 && states[at] != 0 && states[at] != states[at - 2];
            let skip = if may_skip { before[at - 2] } else { f64::NEG_INFINITY };
            add(add(stay, step), skip) + row[states[at]].ln()
        };
        before = (0..states.len()).map(come_to).collect();
    }
    // Ends at the last symbol or the blank after it.
    let last = states.len() - 1;
    if last == 0 { before[0] } else { add(before[last], before[last - 1]) }
}

/// The fewest steps that a text needs: one per symbol, and a blank between equal neighbours.
pub(super) fn steps_needed(text: &[usize]) -> usize {
    text.len() + text.windows(2).filter(|pair| pair[0] == pair[1]).count()
}

/// ln(e^a + e^b).
fn add(a: f64, b: f64) -> f64 {
    let (small, large) = if a < b { (a, b) } else { (b, a) };
    if small == f64::NEG_INFINITY { large } else { large + (small - large).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of an alignment: equal neighbours once, without blanks.
    fn collapse(alignment: &[usize]) -> Vec<usize> {
        let mut text = alignment.to_vec();
        text.dedup();
        text.retain(|symbol| *symbol != 0);
        text
    }

    #[test]
    fn the_probability_is_the_sum_over_all_alignments() {
        const SYMBOLS: usize = 3;
        let steps = 5;
        let rows: Vec<f64> = (0..steps)
            .flat_map(|step| {
                let row = [0, 1, 2].map(|symbol| 1.0 + f64::from((7 * step + 5 * symbol) % 11));
                row.map(|weight| weight / row.iter().sum::<f64>())
            })
            .collect();
        let alignments = SYMBOLS.pow(steps as u32);
        let mut total = 0.0;
        let texts: [&[usize]; 8] = [&[], &[1], &[2], &[1, 2], &[2, 2], &[1, 1, 1], &[2, 1, 2, 1, 2], &[1, 1, 2, 2]];
        for text in texts {
            let mut expected = 0.0;
            for number in 0..alignments {
                let alignment: Vec<usize> =
                    (0..steps as u32).map(|step| number / SYMBOLS.pow(step) % SYMBOLS).collect();
                if collapse(&alignment) == text {
                    expected +=
                        (0..alignment.len()).map(|step| rows[step * SYMBOLS + alignment[step]]).product::<f64>();
                }
            }
            let found = log_probability(&rows, SYMBOLS, text).exp();
            // A few hundred additions of numbers below 1 in f64.
            assert!((found - expected).abs() < 1e-12, "{text:?}: {found} is not {expected}");
            assert_eq!(expected == 0.0, steps_needed(text) > steps as usize, "{text:?}");
            total += found;
        }
        assert!(total < 1.0);
    }

    #[test]
    fn impossible_symbols_have_no_probability_and_no_nan() {
        assert_eq!(log_probability(&[1.0, 0.0, 1.0, 0.0], 2, &[1]), f64::NEG_INFINITY);
        assert_eq!(log_probability(&[0.0, 1.0, 0.0, 1.0], 2, &[1]), 0.0);
    }
}
