//! What a config may look like, as data. The walker, the JSON Schema, the reference and the
//! defaults all come from here, so they cannot disagree.

use crate::kind::Kind;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    One(Kind),
    /// At least one item.
    List(&'static Self),
    /// One value stands for a list of one.
    OneOrList(&'static Self),
    Map(&'static Map),
    Names(&'static Names),
    /// At most one alternative is a map, and at most one a list.
    Either(&'static [Self]),
}

/// A map with known keys.
#[derive(Debug)]
pub(crate) struct Map {
    /// With its article: "a pool".
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    pub(crate) keys: &'static [Key],
    pub(crate) choices: &'static [Choice],
}

/// Exactly one of these keys has to be there.
#[derive(Debug)]
pub(crate) struct Choice(pub(crate) &'static [&'static str]);

/// A map from names of the operator's own to values of one shape.
#[derive(Debug)]
pub(crate) struct Names {
    /// What a name names: "a pool".
    pub(crate) title: &'static str,
    pub(crate) key: Kind,
    pub(crate) value: Shape,
}

#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) state: State,
    pub(crate) default: Default,
    pub(crate) required: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum State {
    Built(Shape),
    /// The capability that brings it.
    Later(&'static str),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Default {
    None,
    /// The value, as it would be written.
    Value(&'static str),
    /// Where the default depends on something else.
    Words(&'static str),
}

pub(crate) const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, about, state: State::Built(shape), default: Default::None, required: false }
}

pub(crate) const fn later(name: &'static str, capability: &'static str) -> Key {
    Key { name, about: "", state: State::Later(capability), default: Default::None, required: false }
}

impl Key {
    pub(crate) const fn default(mut self, value: &'static str) -> Self {
        self.default = Default::Value(value);
        self
    }

    pub(crate) const fn by_default(mut self, words: &'static str) -> Self {
        self.default = Default::Words(words);
        self
    }

    pub(crate) const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    pub(crate) fn shape(&self) -> Option<Shape> {
        match self.state {
            State::Built(shape) => Some(shape),
            State::Later(_) => None,
        }
    }
}

impl Map {
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The names of the keys that are built.
    pub(crate) fn built(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().filter(|key| key.shape().is_some()).map(|key| key.name)
    }

    /// `a map { address, token }`
    fn describe(&self) -> String {
        let shown: Vec<&str> = self.built().take(SHOWN_KEYS).collect();
        match (shown.len(), self.built().count()) {
            (0, _) => "an empty map {}".to_owned(),
            (shown_count, count) if shown_count < count => {
                format!("a map {{ {}, … }}", shown.join(", "))
            }
            _ => format!("a map {{ {} }}", shown.join(", ")),
        }
    }
}

/// Keys that a short description of a map shows.
const SHOWN_KEYS: usize = 4;

impl Shape {
    /// "a list of servers", "on or off": for messages and the reference.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::One(kind) => kind.describe(),
            Self::List(item) => format!("a list, each item {}", item.describe()),
            Self::OneOrList(item) => format!("{}, or a list of such", item.describe()),
            Self::Map(map) => map.describe(),
            Self::Names(names) => format!("a map of names, each of them {}", names.title),
            Self::Either(shapes) => {
                let parts: Vec<String> = shapes.iter().map(|shape| shape.describe()).collect();
                crate::report::or_list(parts.iter().map(String::as_str))
            }
        }
    }

    pub(crate) fn alternatives(&self) -> &[Self] {
        match self {
            Self::Either(shapes) => shapes,
            _ => std::slice::from_ref(self),
        }
    }
}
