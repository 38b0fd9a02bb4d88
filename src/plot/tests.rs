use super::*;

fn ticks(scale: Scale, values: &[f64]) -> Vec<String> {
    Range::new(scale, values.iter().copied()).ticks.into_iter().map(|(_, label)| label).collect()
}

#[test]
fn ticks_are_round_numbers_with_the_digits_they_need() {
    assert_eq!(ticks(Scale::FromZero, &[0.1, 1.0]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    assert_eq!(ticks(Scale::Whole, &[0.0, 10.0]), ["0", "2", "4", "6", "8", "10"]);
    assert_eq!(ticks(Scale::Whole, &[0.0, 2.0]), ["0", "1", "2"]);
    assert_eq!(ticks(Scale::Log, &[3e-5, 0.5]), ["1e−4", "0.001", "0.01", "0.1"]);
    assert_eq!(ticks(Scale::Log, &[3e-3, 6e-2]), ["0.005", "0.01", "0.02", "0.05"]);
    assert_eq!(ticks(Scale::Linear, &[-0.031, 0.024]), ["−0.03", "−0.02", "−0.01", "0.00", "0.01", "0.02"]);
    assert_eq!(ticks(Scale::FromZero, &[0.00042]), ["0", "1e−4", "2e−4", "3e−4", "4e−4"]);
}

#[test]
fn any_set_of_numbers_makes_a_range_with_ticks() {
    for scale in [Scale::Linear, Scale::FromZero, Scale::Whole, Scale::Log] {
        for values in [&[1.0][..], &[1e-9, 1e9], &[5.0, 5.0], &[0.2, 0.25], &[1e12, 1e12]] {
            let range = Range::new(scale, values.iter().copied());
            assert!(range.high > range.low, "{scale:?} {values:?}");
            assert!((1..=40).contains(&range.ticks.len()), "{scale:?} {values:?} {:?}", range.ticks);
            assert!(values.iter().all(|value| (0.0..=1.0).contains(&range.share(*value))), "{scale:?} {values:?}");
        }
    }
    assert!(Range::new(Scale::FromZero, [0.0].into_iter()).high > 0.0);
}

#[test]
fn a_chart_names_its_series_and_leaves_out_what_it_cannot_show() {
    let axis = |title, scale| Axis { title, scale };
    let line = vec![[0.0, 0.5], [1.0, f64::NAN], [2.0, 0.0], [3.0, 0.01]];
    let series = Series { label: "a < b & c".into(), line, mark_all: true, ..Series::default() };
    let mut chart = Chart {
        title: "Title",
        subtitle: "Subtitle",
        x: axis("rollouts", Scale::Whole),
        y: axis("KL", Scale::Log),
        series: vec![series],
    };
    assert!(!chart.is_empty());
    let svg = chart.to_svg().unwrap();
    for words in ["a &lt; b &amp; c", "Title", "Subtitle", "rollouts", "KL"] {
        assert!(svg.contains(words), "{words} is missing in {svg}");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    // Two points can be shown; the third disc is the legend's.
    assert_eq!(svg.matches("<circle").count(), 3);
    chart.series[0].line.truncate(0);
    assert!(chart.is_empty());
}
