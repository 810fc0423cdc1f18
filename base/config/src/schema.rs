//! The JSON Schema of a config file, from the table.

use serde_json::{Map as Object, Value, json};

use crate::fill;
use crate::kind::{Form, Kind};
use crate::shape::{Default, Key, Map, Shape};
use crate::table;

/// JSON Schema, draft 2020-12. It rejects every error of shape, and never what a check accepts.
pub fn schema() -> Value {
    let mut definitions = Object::new();
    definitions.insert(
        "environment".to_owned(),
        json!({ "type": "string", "pattern": fill::PATTERN, "description": "Text with ${NAME} or ${NAME:-default}." }),
    );
    for (name, map) in table::MAPS {
        definitions.insert((*name).to_owned(), of_map(map));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sumun",
        "description": "The config file of Sumun.",
        "$ref": "#/$defs/file",
        "$defs": definitions,
    })
}

fn of_map(map: &Map) -> Value {
    let mut properties = Object::new();
    for key in map.keys {
        if let Some(shape) = key.shape() {
            properties.insert(key.name.to_owned(), of_key(key, shape));
        }
    }
    let mut schema = json!({
        "type": "object",
        "title": map.title,
        "description": map.about,
        "properties": properties,
        "additionalProperties": false,
    });
    let required: Vec<&str> = map.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    if let Some(object) = schema.as_object_mut() {
        if !required.is_empty() {
            object.insert("required".to_owned(), json!(required));
        }
        for choice in map.choices {
            let built = choice.0.iter().filter(|name| map.key(name).is_some_and(|key| key.shape().is_some()));
            let one_of: Vec<Value> = built.map(|name| json!({ "required": [name] })).collect();
            object.insert("oneOf".to_owned(), json!(one_of));
        }
    }
    schema
}

fn of_key(key: &Key, shape: Shape) -> Value {
    let mut schema = of_shape(shape);
    if let Some(object) = schema.as_object_mut() {
        let description = match key.default {
            Default::Words(words) => format!("{} Default: {words}.", key.about),
            Default::None | Default::Value(_) => key.about.to_owned(),
        };
        object.insert("description".to_owned(), json!(description));
        if let Default::Value(text) = key.default {
            object.insert("default".to_owned(), default(text));
        }
    }
    schema
}

/// A default as JSON makes it out of YAML.
fn default(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number))
}

fn of_shape(shape: Shape) -> Value {
    let mut alternatives = Vec::new();
    let mut has_scalar = false;
    collect(shape, &mut alternatives, &mut has_scalar);
    if has_scalar {
        alternatives.push(json!({ "$ref": "#/$defs/environment" }));
    }
    match <[Value; 1]>::try_from(alternatives) {
        Ok([only]) => only,
        Err(several) => json!({ "anyOf": several }),
    }
}

fn collect(shape: Shape, found: &mut Vec<Value>, has_scalar: &mut bool) {
    match shape {
        Shape::One(kind) => {
            *has_scalar = true;
            found.extend(of_kind(kind));
        }
        Shape::List(item) => found.push(json!({ "type": "array", "items": of_shape(*item), "minItems": 1 })),
        Shape::OneOrList(item) => {
            collect(*item, found, has_scalar);
            found.push(json!({ "type": "array", "items": of_shape(*item), "minItems": 1 }));
        }
        Shape::Map(map) => found.push(json!({ "$ref": format!("#/$defs/{}", table::name_of(map)) })),
        Shape::Names(names) => {
            let mut schema = json!({ "type": "object", "additionalProperties": of_shape(names.value) });
            let pattern = match names.key.form() {
                Form::Text(pattern) | Form::TextOrZero(pattern) | Form::Scalar(pattern) => pattern,
                Form::Words(_) | Form::Switch(..) | Form::Integer { .. } => "",
            };
            if let Some(object) = schema.as_object_mut()
                && !pattern.is_empty()
            {
                object.insert("propertyNames".to_owned(), json!({ "pattern": pattern }));
            }
            found.push(schema);
        }
        Shape::Either(shapes) => shapes.iter().for_each(|shape| collect(*shape, found, has_scalar)),
    }
}

/// Empty for a kind of which nothing is built yet.
fn of_kind(kind: Kind) -> Vec<Value> {
    let text = |pattern: &str| match pattern {
        "" => json!({ "type": "string" }),
        pattern => json!({ "type": "string", "pattern": pattern }),
    };
    match kind.form() {
        Form::Words([]) => Vec::new(),
        Form::Words(words) => vec![json!({ "enum": words })],
        Form::Switch(truths, texts) => {
            let mut values: Vec<Value> = truths.iter().map(|truth| json!(truth)).collect();
            values.extend(texts.iter().map(|text| json!(text)));
            vec![json!({ "enum": values })]
        }
        Form::Integer { least, most } => {
            vec![json!({ "type": "integer", "minimum": least, "maximum": most })]
        }
        Form::Text(pattern) => vec![text(pattern)],
        Form::TextOrZero(pattern) => vec![text(pattern), json!({ "const": 0 })],
        Form::Scalar(pattern) => vec![text(pattern), json!({ "type": ["number", "boolean"] })],
    }
}
