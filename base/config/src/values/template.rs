//! Texts with `{fields}`; `{{` and `}}` are braces themselves.

use super::Wrong;
use crate::report::quoted;

pub(super) enum Part<Field> {
    Text(String),
    Field(Field),
}

/// The parts of a text, its fields read by `field`.
pub(super) fn parts<Field>(
    text: &str,
    field: impl Fn(&str) -> Result<Field, Wrong>,
) -> Result<Vec<Part<Field>>, Wrong> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '{' | '}' if characters.peek() == Some(&character) => {
                characters.next();
                literal.push(character);
            }
            '{' => {
                let mut name = String::new();
                loop {
                    match characters.next() {
                        Some('}') => break,
                        Some(character) => name.push(character),
                        None => {
                            return Err(Wrong::new(format!(
                                "the `}}` after {} is missing",
                                quoted(&format!("{{{name}"))
                            )));
                        }
                    }
                }
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                parts.push(Part::Field(field(&name)?));
            }
            '}' => {
                return Err(Wrong::new("a `}` without its `{`").help("write }} for the character itself"));
            }
            character => literal.push(character),
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    Ok(parts)
}
