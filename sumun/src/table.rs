//! Aligned tables for people.

use std::fmt::Write;

/// How a cell is coloured on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) tone: Tone,
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.to_string(), tone: Tone::Plain }
    }
}

/// `head` and `rows` with columns as wide as they need; columns of numbers are right-aligned.
pub(crate) fn render(head: &[&str], rows: &[Vec<Cell>], coloured: bool) -> String {
    let column = |index: usize| rows.iter().filter_map(move |row| row.get(index));
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(index, title)| {
            let longest = column(index).map(|cell| cell.text.chars().count()).max();
            longest.unwrap_or(0).max(title.chars().count())
        })
        .collect();
    let right: Vec<bool> = (0..head.len())
        .map(|index| {
            let number = |cell: &Cell| cell.text.bytes().all(|byte| byte.is_ascii_digit());
            !rows.is_empty() && column(index).all(number)
        })
        .collect();
    let mut out = String::new();
    let titles: Vec<Cell> = head.iter().map(Cell::from).collect();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(&widths).zip(&right) {
            let padding = " ".repeat(width - cell.text.chars().count().min(*width));
            let (before, after) = if *right { (padding, String::new()) } else { (String::new(), padding) };
            let text = painted(&printable(&cell.text), cell.tone, coloured);
            write!(line, "{before}{text}{after}  ").expect("a String takes everything");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Names come from a config or an API; control characters in them do not reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn painted(text: &str, tone: Tone, coloured: bool) -> String {
    let code = match tone {
        Tone::Good => "32",
        Tone::Warning => "33",
        Tone::Bad => "31",
        Tone::Plain => return text.to_owned(),
    };
    if coloured { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_numbers_stand_right() {
        let rows = vec![
            vec![Cell::from("app"), Cell::from(7), Cell { text: "up".into(), tone: Tone::Good }],
            vec![Cell::from("대기"), Cell::from(1200), Cell::from("down\u{1b}")],
        ];
        let text = render(&["pool", "requests", "state"], &rows, false);
        assert_eq!(text, "pool  requests  state\napp          7  up\n대기        1200  down\u{fffd}\n");
        assert!(render(&["a", "b", "c"], &rows, true).contains("\u{1b}[32mup\u{1b}[0m"));
    }

    #[test]
    fn no_rows_still_show_the_head() {
        assert_eq!(render(&["a", "b"], &[], false), "a  b\n");
    }
}
