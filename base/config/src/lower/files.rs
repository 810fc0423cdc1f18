//! The web server's part of a route.

use std::collections::BTreeMap;

use super::process::Use;
use super::{Lower, Section};
use crate::checked::{Files, Glob};
use crate::node::Node;

impl Lower<'_> {
    pub(super) fn files(&mut self, route: Section<'_>, node: &Node) -> Option<Files> {
        let files = route.section("files");
        let written = if node.scalar().is_some() { node } else { files.given("root")? };
        let text = written.scalar().filter(|scalar| !scalar.broken)?;
        let root = self.path(written, &text.text);
        self.probe_directory(written.place, &root);
        let what = if files.switch("write") { Use::WriteInto } else { Use::ServeFrom };
        self.probe_as_user(written.place, &root, what);
        let fallback = files.text("fallback").map(|text| text.trim_start_matches('/').to_owned());
        if let (Some(node), Some(fallback)) = (files.given("fallback"), &fallback) {
            self.probe_fallback(node.place, &root.join(fallback));
        }
        let mut index: Vec<String> = files.texts("index").into_iter().map(|(_, text)| text.to_owned()).collect();
        if index.is_empty() {
            index.extend(files.default("index").map(str::to_owned));
        }
        Some(Files {
            root,
            index,
            fallback,
            precompressed: files.switch("precompressed"),
            compress: files.switch("compress"),
            list: files.switch("list"),
            write: files.switch("write"),
            cache_control: files
                .named_texts("cache_control")
                .into_iter()
                .map(|(pattern, _, value)| (Glob(pattern.to_owned()), value.to_owned()))
                .collect(),
            types: self.types(files),
        })
    }

    /// What stands in where no server answers.
    pub(super) fn degrade(&mut self, route: Section<'_>) -> Option<Files> {
        route.given("degrade")?;
        let degrade = route.section("degrade");
        let mut files = self.files(degrade, degrade.given("files")?)?;
        if files.write {
            let node = degrade.section("files").given("write")?;
            self.error(node.place, "a stand-in is never written to", "leave `write` out");
        }
        if files.cache_control.is_empty() {
            // It is gone when the servers are back.
            files.cache_control.push((Glob("*".to_owned()), "no-store".to_owned()));
        }
        Some(files)
    }

    fn types(&mut self, files: Section<'_>) -> BTreeMap<String, String> {
        let mut types = BTreeMap::new();
        for (extension, node, media_type) in files.named_texts("types") {
            let extension = extension.strip_prefix('.').unwrap_or(extension).to_ascii_lowercase();
            if types.insert(extension.clone(), media_type.to_owned()).is_some() {
                let message = format!("the extension `{extension}` has two media types");
                self.error(node.place, message, "extensions are compared without their dot and in lower case");
            }
        }
        types
    }
}
