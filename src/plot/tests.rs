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
fn a_chart_names_its_series_and_omits_points_it_cannot_show() {
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
    // Two points can be shown; the third disc is that of the legend.
    assert_eq!(svg.matches("<circle").count(), 3);
    chart.series[0].line.truncate(0);
    assert!(chart.is_empty());
}

#[test]
fn a_chart_in_a_page_uses_the_colours_of_the_page_and_has_no_labels() {
    let axis = Axis { title: "rollouts", scale: Scale::Whole };
    let series = Series { label: "a label".into(), line: vec![[0.0, 0.5], [1.0, 0.75]], ..Series::default() };
    let chart = Chart { title: "Title", subtitle: "Subtitle", x: axis, y: axis, series: vec![series] };
    let svg = chart.to_inline_svg().unwrap();
    assert!(svg.starts_with("<svg role=\"img\" aria-label=\"Title\" viewBox="), "{svg}");
    assert!(svg.contains("rollouts") && !svg.contains("Subtitle") && !svg.contains("a label"), "{svg}");
    for colour in ["\"var(--faded)\"", "\"var(--rule)\"", "\"var(--ink)\"", "#0072B2"] {
        assert!(svg.contains(colour), "{colour} is missing in {svg}");
    }
}

#[test]
fn every_combination_of_shape_and_colour_has_its_own_mark() {
    let mark = |index| Series { colour: index, shape: index, ..Series::default() }.to_inline_mark().unwrap();
    let marks: std::collections::BTreeSet<String> = (0..56).map(mark).collect();
    assert_eq!(marks.len(), 56);
    // Hollow marks show the card below them.
    assert!(mark(0).contains("#0072B2") && !mark(0).contains("var(--card)") && mark(4).contains("var(--card)"));
}

#[test]
fn a_heat_map_has_a_cell_for_each_positive_number() {
    let cells = vec![[1.0, 0.0, 1e-4], [1.0, 2.0, 1e-2], [2.0, 0.0, 0.0], [2.0, 2.0, f64::NAN], [3.0, 2.0, 1e-3]];
    let mut map = HeatMap { title: "Title", subtitle: "", axes: ["iteration", "step"], cells };
    // Three cells and 64 of the scale; the smallest has the first colour, the largest nearly the last.
    let svg = map.to_inline_svg().unwrap();
    assert_eq!(svg.matches("<rect").count(), 3 + 64, "{svg}");
    assert!(!svg.contains("NaN"));
    // Ten thousand iterations are averaged into visible columns.
    map.cells = (1..=10_000).map(|iteration| [f64::from(iteration), 4.0, 1e-3]).collect();
    let cells = map.to_inline_svg().unwrap().matches("<rect").count() - 64;
    assert!((100..=170).contains(&cells), "{cells}");
    map.cells = vec![[1.0, 0.0, 0.0]];
    assert!(map.is_empty());
}

#[test]
fn long_lines_of_one_colour_have_marks_if_the_legend_is_elsewhere() {
    let axis = Axis { title: "", scale: Scale::Linear };
    let line: Vec<[f64; 2]> = (0..200).map(|index| [f64::from(index), 1.0]).collect();
    let series = |colour| Series { colour, shape: 0, line: line.clone(), ..Series::default() };
    let chart =
        |colours: [usize; 2]| Chart { title: "", subtitle: "", x: axis, y: axis, series: colours.map(series).into() };
    let discs = |svg: String| svg.matches("<circle").count();
    assert_eq!(discs(chart([0, 1]).to_inline_svg().unwrap()), 2);
    assert_eq!(discs(chart([0, 7]).to_inline_svg().unwrap()), 2 * MARKS);
    // Standalone: a disc for each end and one for each entry of the legend.
    assert_eq!(discs(chart([0, 7]).to_svg().unwrap()), 4);
}
