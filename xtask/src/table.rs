//! Tables for a person at a terminal and for a Markdown file.

/// Columns as wide as their widest cell; the first column to the left, the others to the right
/// where `numeric` says so.
pub(crate) fn plain(header: &[&str], rows: &[Vec<String>], numeric: bool) -> String {
    let widths = widths(header, rows);
    let mut text = String::new();
    let lines = std::iter::once(header.iter().map(|cell| (*cell).to_owned()).collect()).chain(rows.iter().cloned());
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(
                |(column, (cell, &width))| {
                    if numeric && column > 0 { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
                },
            )
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The same as a Markdown table.
pub(crate) fn markdown(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), " --- |".repeat(header.len()));
    for row in rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

fn widths(header: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".to_owned(), "10".to_owned()], vec!["long".to_owned(), "5".to_owned()]];
        assert_eq!(plain(&["name", "n"], &rows, true), "name   n\na     10\nlong   5\n");
        assert_eq!(plain(&["name", "n"], &rows, false), "name  n\na     10\nlong  5\n");
        assert_eq!(markdown(&["name", "n"], &rows), "| name | n |\n| --- | --- |\n| a | 10 |\n| long | 5 |\n");
    }
}
