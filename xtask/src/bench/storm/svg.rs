//! A chart as text: lines over offered load, readable on a light and on a dark page.

/// A contender's line: a name and a value for each load; where there is none, the line has a gap.
pub(crate) type Line = (String, Vec<Option<f64>>);

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 180.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;

/// Values above 1 by a little are of a server that had a good moment.
const MOST: f64 = 1.1;

/// Least distance between two names at the right edge.
const NAME_HEIGHT: f64 = 17.0;

/// On light and on dark; told apart by their dashes too.
const COLOURS: [(&str, &str, &str); 6] = [
    ("#0b62d6", "#6cb2ff", ""),
    ("#5c6773", "#9aa6b2", "2 4"),
    ("#0a7d43", "#4fd08c", "9 4"),
    ("#b3560a", "#f0a04b", "4 3"),
    ("#8b2fb8", "#d59bf5", "12 3 2 3"),
    ("#b3203a", "#ff8095", "6 2 2 2"),
];

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:15px;font-weight:600}\
.grid{stroke:#d0d7de;stroke-width:1}.line{fill:none;stroke-width:2.5;stroke-linejoin:round}";
const DARK_STYLE: &str = "text{fill:#e6edf3}.grid{stroke:#3d444d}";

/// `loads` rise, and are drawn on a logarithmic scale.
pub(crate) fn chart(title: &str, loads: &[f64], lines: &[Line]) -> String {
    let x = |load: f64| {
        let (least, most) = (loads.first().copied().unwrap_or(1.0), loads.last().copied().unwrap_or(1.0));
        let share = if most > least { (load / least).ln() / (most / least).ln() } else { 0.5 };
        LEFT + share * (WIDTH - LEFT - RIGHT)
    };
    let y = |value: f64| TOP + (1.0 - value.clamp(0.0, MOST) / MOST) * (HEIGHT - TOP - BOTTOM);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}",
        escaped(title)
    );
    for (index, (light, _, _)) in COLOURS.iter().enumerate() {
        text.push_str(&format!(".s{index}{{stroke:{light}}}.n{index}{{fill:{light}}}"));
    }
    text.push_str(&format!("@media(prefers-color-scheme:dark){{{DARK_STYLE}"));
    for (index, (_, dark, _)) in COLOURS.iter().enumerate() {
        text.push_str(&format!(".s{index}{{stroke:{dark}}}.n{index}{{fill:{dark}}}"));
    }
    text.push_str(&format!("}}</style>\n<text class=\"title\" x=\"{LEFT}\" y=\"24\">{}</text>\n", escaped(title)));
    for step in 0..=5 {
        let value = f64::from(step) / 5.0;
        let y = y(value);
        text.push_str(&format!(
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1}</text>\n",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0
        ));
    }
    for &load in loads {
        text.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{load}</text>\n",
            x(load),
            HEIGHT - BOTTOM + 20.0
        ));
    }
    text.push_str(&format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">offered load, times the capacity of the server</text>\n",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 12.0
    ));
    for (index, (_, values)) in lines.iter().enumerate() {
        let (_, _, dash) = COLOURS[index % COLOURS.len()];
        for points in loads.iter().zip(values).collect::<Vec<_>>().split(|(_, value)| value.is_none()) {
            let points: Vec<String> = points
                .iter()
                .filter_map(|(load, value)| Some(format!("{:.1},{:.1}", x(**load), y((**value)?))))
                .collect();
            if !points.is_empty() {
                text.push_str(&format!(
                    "<polyline class=\"line s{}\" stroke-dasharray=\"{dash}\" points=\"{}\"/>\n",
                    index % COLOURS.len(),
                    points.join(" ")
                ));
            }
        }
    }
    let ends = lines.iter().map(|(_, values)| values.iter().rev().find_map(|value| *value).map(y)).collect::<Vec<_>>();
    for (index, at) in apart(&ends).into_iter().enumerate() {
        if let (Some(at), Some((name, _))) = (at, lines.get(index)) {
            text.push_str(&format!(
                "<text class=\"n{}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                index % COLOURS.len(),
                WIDTH - RIGHT + 10.0,
                at + 4.0,
                escaped(name)
            ));
        }
    }
    text.push_str("</svg>\n");
    text
}

/// The same places, moved so far that no two names cover each other.
fn apart(places: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut order: Vec<usize> = (0..places.len()).filter(|&index| places[index].is_some()).collect();
    order.sort_by(|&one, &other| places[one].unwrap_or(0.0).total_cmp(&places[other].unwrap_or(0.0)));
    let mut moved = places.to_vec();
    let mut floor = f64::NEG_INFINITY;
    for &index in &order {
        let place = moved[index].unwrap_or(0.0).max(floor);
        moved[index] = Some(place);
        floor = place + NAME_HEIGHT;
    }
    // What was pushed below the chart goes up again.
    let mut ceiling = HEIGHT - BOTTOM;
    for &index in order.iter().rev() {
        let place = moved[index].unwrap_or(0.0).min(ceiling);
        moved[index] = Some(place);
        ceiling = place - NAME_HEIGHT;
    }
    moved
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_and_a_gap_where_nothing_is_known() {
        let lines = [
            ("a < b".to_owned(), vec![Some(0.5), Some(1.0), Some(0.1)]),
            ("c".to_owned(), vec![Some(0.5), None, Some(1.0)]),
        ];
        let text = chart("goodput & more", &[0.5, 1.0, 10.0], &lines);
        assert_eq!(text.matches("<polyline").count(), 3);
        assert!(text.contains("goodput &amp; more") && text.contains("a &lt; b"));
        assert!(text.contains("prefers-color-scheme:dark"));
        assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
        // Both ends of the scale are where the chart begins and ends.
        assert!(text.contains("points=\"56.0,") && text.contains(" 580.0,"), "{text}");
    }

    #[test]
    fn names_do_not_cover_each_other() {
        let moved = apart(&[Some(100.0), None, Some(101.0), Some(367.0), Some(367.0)]);
        let mut places: Vec<f64> = moved.iter().copied().flatten().collect();
        places.sort_by(f64::total_cmp);
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= NAME_HEIGHT - 1e-9), "{places:?}");
        assert!(places.iter().all(|&place| place <= HEIGHT - BOTTOM) && moved[1].is_none());
    }
}
