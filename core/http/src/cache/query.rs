//! Which parts of a query tell resources apart: the operator's choice, and what a response says in
//! `No-Vary-Search` (draft-ietf-httpbis-no-vary-search).

use sfv::{Dictionary, InnerList, ListEntry, Parser};

/// What counts of a query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueryRules {
    /// The order of parameters with different names does not matter.
    pub ignores_order: bool,
    pub names: Names,
}

/// Which parameters count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Names {
    #[default]
    All,
    Only(Vec<Vec<u8>>),
    AllBut(Vec<Vec<u8>>),
    None,
}

impl QueryRules {
    /// What a value of `No-Vary-Search` says, a dictionary of structured fields; what is of another form says
    /// nothing.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let dictionary: Dictionary = Parser::new(value).parse().ok()?;
        let mut rules = Self { ignores_order: flag(dictionary.get("key-order"))?, names: Names::All };
        let params = dictionary.get("params");
        rules.names = match (params, dictionary.get("except")) {
            (Some(ListEntry::InnerList(names)), None) => Names::AllBut(strings(names)?),
            (_, None) => {
                if flag(params)? {
                    Names::None
                } else {
                    Names::All
                }
            }
            // Only beside `params` as a flag.
            (_, Some(ListEntry::InnerList(names))) if flag(params)? => Names::Only(strings(names)?),
            _ => return None,
        };
        (rules != Self::default()).then_some(rules)
    }

    /// Appends the part of a query (without its question mark) that counts, with a question mark before
    /// it; nothing where nothing counts.
    pub fn write(&self, query: &[u8], out: &mut Vec<u8>) {
        if *self == Self::default() {
            if !query.is_empty() {
                out.push(b'?');
                out.extend_from_slice(query);
            }
            return;
        }
        let mut parameters: Vec<&[u8]> = query
            .split(|&byte| byte == b'&')
            .filter(|parameter| !parameter.is_empty() && self.counts(name_of(parameter)))
            .collect();
        if self.ignores_order {
            // Those of one name keep their order: it may mean something.
            parameters.sort_by(|one, other| decoded(name_of(one)).cmp(decoded(name_of(other))));
        }
        for (index, parameter) in parameters.into_iter().enumerate() {
            out.push(if index == 0 { b'?' } else { b'&' });
            out.extend_from_slice(parameter);
        }
    }

    fn counts(&self, name: &[u8]) -> bool {
        let has = |names: &[Vec<u8>]| names.iter().any(|other| is_same(other, name));
        match &self.names {
            Names::All => true,
            Names::None => false,
            Names::Only(names) => has(names),
            Names::AllBut(names) => !has(names),
        }
    }
}

fn name_of(parameter: &[u8]) -> &[u8] {
    parameter.split(|&byte| byte == b'=').next().unwrap_or_default()
}

/// An escaped name is the same as one that is not: else a parameter that counts for the application
/// would not for the cache.
fn is_same(plain: &[u8], written: &[u8]) -> bool {
    decoded(written).eq(plain.iter().copied())
}

/// As forms are written (application/x-www-form-urlencoded).
fn decoded(written: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = written;
    std::iter::from_fn(move || {
        let (&first, behind) = rest.split_first()?;
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        if first == b'%'
            && let [high, low, behind @ ..] = behind
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            rest = behind;
            return Some(high * 16 + low);
        }
        rest = behind;
        Some(if first == b'+' { b' ' } else { first })
    })
}

/// `None`: it is there and no flag.
fn flag(entry: Option<&ListEntry>) -> Option<bool> {
    match entry {
        None => Some(false),
        Some(ListEntry::Item(item)) => item.bare_item.as_boolean(),
        Some(ListEntry::InnerList(_)) => None,
    }
}

fn strings(list: &InnerList) -> Option<Vec<Vec<u8>>> {
    list.items.iter().map(|item| Some(decoded(item.bare_item.as_string()?.as_str().as_bytes()).collect())).collect()
}
