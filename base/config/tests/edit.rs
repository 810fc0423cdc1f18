//! The cache's volumes are changed in the text, and nothing else is.

use std::path::Path;

use sumun_config::{Sources, VolumeEdit, edit_volumes};

const REST: &str = "listeners: { web: { bind: ':1', routes: [ respond: 204 ] } }\n";

fn edited(cache: &str, edit: VolumeEdit<'_>) -> Result<String, String> {
    let text = format!("# The cache.\n{cache}{REST}");
    let edited = edit_volumes(&Sources::of_text("test.yaml", &text), edit)?;
    assert_eq!(edited.before, text);
    assert!(edited.file.ends_with("test.yaml"));
    let after = edited.after.strip_prefix("# The cache.\n").and_then(|text| text.strip_suffix(REST));
    Ok(after.unwrap_or_else(|| panic!("{}", edited.after)).to_owned())
}

fn good(cache: &str, edit: VolumeEdit<'_>, after: &str) {
    assert_eq!(edited(cache, edit).unwrap_or_else(|why| panic!("{why}")), after, "{edit:?}");
}

const ONE_LINE: &str = "cache: { group: { physical_volumes: [{ path: /a, size: 3GiB }, { path: /b, size: 2GiB }] }, volumes: { pages: { size: 1GiB }, 'über': 1 } }\n";

fn one_line(physical: &str, size: &str) -> String {
    format!(
        "cache: {{ group: {{ physical_volumes: [{physical}] }}, volumes: {{ pages: {{ size: {size} }} }} }} # 대기\n"
    )
}

const BLOCK: &str = "\
cache:
  volumes: # two
    pages:
      formerly: old   # before
      size: \"1GiB\"   # a GiB
  group:
    physical_volumes:
      # The first disk.
      - path: /a
        size: 3GiB # all of it
      # The second.
      - { size: 2GiB,
          path: /b }  # b

";

fn add(path: &str) -> VolumeEdit<'_> {
    VolumeEdit::Add { path: Path::new(path), size: Some("3GiB") }
}

fn remove(path: &str) -> VolumeEdit<'_> {
    VolumeEdit::Remove { path: Path::new(path) }
}

const RESIZE: VolumeEdit<'_> = resize("pages", "512MiB", false);

const fn resize<'a>(volume: &'a str, size: &'a str, grows: bool) -> VolumeEdit<'a> {
    VolumeEdit::Resize { volume, size, grows }
}

#[test]
fn within_brackets() {
    let (a, b) = ("{ path: /a, size: 3GiB }", "{ path: /b, size: 2GiB }");
    let two = one_line(&format!("{a}, {b}"), "1GiB");
    good(&two, RESIZE, &one_line(&format!("{a}, {b}"), "512MiB"));
    good(&two, add("/c"), &one_line(&format!("{a}, {b}, {{ path: \"/c\", size: 3GiB }}"), "1GiB"));
    good(&two, remove("/a"), &one_line(b, "1GiB"));
    good(&two, remove("/b"), &one_line(a, "1GiB"));
    let device = VolumeEdit::Add { path: Path::new("/dev/null/\"x"), size: None };
    good(&two, device, &one_line(&format!("{a}, {b}, {{ path: \"/dev/null/\\\"x\" }}"), "1GiB"));
    let lines = format!("{a}, # one\n  {b}, # two\n  ");
    good(&one_line(&lines, "1GiB"), remove("/a"), &one_line(&format!("{b}, # two\n  "), "1GiB"));
    good(&one_line(&lines, "1GiB"), remove("/b"), &one_line(&format!("{a}, # one\n   # two\n  "), "1GiB"));
}

#[test]
fn on_lines_of_their_own() {
    good(BLOCK, RESIZE, &BLOCK.replace("\"1GiB\"", "512MiB"));
    good(BLOCK, add("/c"), &BLOCK.replace("  # b\n", "  # b\n      - { path: \"/c\", size: 3GiB }\n"));
    good(BLOCK, remove("/a"), &BLOCK.replace("      - path: /a\n        size: 3GiB # all of it\n", ""));
    good(BLOCK, remove("/b"), &BLOCK.replace("      - { size: 2GiB,\n          path: /b }  # b\n", ""));
    let windows = BLOCK.replace('\n', "\r\n");
    let after = BLOCK.replace("  # b\n", "  # b\n      - { path: \"/c\", size: 3GiB }\n").replace('\n', "\r\n");
    good(&windows, add("/c"), &after);
}

#[test]
fn what_would_be_wrong_is_refused() {
    let refused = |cache: &str, edit: VolumeEdit<'_>, why: &str| {
        let refusal = edited(cache, edit).unwrap_err();
        assert!(refusal.contains(why), "{refusal}");
    };
    let two = one_line("{ path: /a, size: 3GiB }, { path: /b, size: 2GiB }", "1GiB");
    refused(&two, resize("pages", "9GiB", true), "there is room for");
    refused(&two, resize("pages", "5", true), "has no unit");
    refused(&two, resize("media", "9GiB", true), "there is no volume media");
    refused(&two, resize("pages", "1024MiB", true), "pages has 1GiB, and 1024MiB is not more");
    refused(&two, resize("pages", "2GiB", false), "pages has 1GiB, and 2GiB is not less");
    refused(&two, add("/a"), "is a physical volume already");
    refused(&two, remove("/c"), "there is no physical volume /c");
    refused(&one_line("{ path: /a, size: 3GiB }", "1GiB"), remove("/a"), "the only physical volume");
    refused("cache: {}\n", RESIZE, "no `group`");
    refused("cach: {}\n", RESIZE, "unknown key");
    // The value is the environment's, and not the file's.
    refused(&one_line("{ path: /a, size: 3GiB }", "\"${NOT_SET_HERE:-1GiB}\""), RESIZE, "edit the file");
    refused(&two, add("/${HOME}"), "edit the file");
    refused(ONE_LINE, RESIZE, "has to be");
}

#[test]
fn an_included_file_is_the_one_that_changes() {
    let folder = std::env::temp_dir().join(format!("sumun-edit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("sumun.yaml"), format!("include: cache.yaml\n{REST}")).unwrap();
    std::fs::write(folder.join("cache.yaml"), BLOCK).unwrap();
    let sources = sumun_config::load(&folder.join("sumun.yaml")).unwrap();
    let edited = edit_volumes(&sources, RESIZE).unwrap();
    assert_eq!((edited.file, edited.before.as_str()), (folder.join("cache.yaml"), BLOCK));
    assert_eq!(edited.after, BLOCK.replace("\"1GiB\"", "512MiB"));
    std::fs::remove_dir_all(&folder).unwrap();
}
