//! The config file: text, checked form, difference.
