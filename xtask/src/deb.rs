//! `cargo xtask deb`: a Debian package of the program, put together with dpkg-deb alone.
//!
//! What goes where stands in [`lay_out`]; the texts lie in `packaging/`. The man page, the shell
//! completions and the schema are what the packaged program itself prints, so they cannot differ
//! from it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::shell::{Fallible, cargo, find_program, output, passes, target_folder, workspace};

const PACKAGE: &str = "sumun";
/// What changes when the packaging does and the program does not.
const REVISION: &str = "1";
const MAINTAINER: &str = "Sumun developers <maintainers@sumun.example>";
const HOMEPAGE: &str = "https://github.com/sumun/sumun";

/// Where the unit, as every package of Debian 12, lies; /lib is a link to it.
const UNITS: &str = "lib/systemd/system";

const DESCRIPTION: &str = "\
Description: floodgate in front of application servers
 Sumun stands between the network and application servers, and keeps a service
 up when the crowd comes: an HTTP gateway and web server with balancing, health
 checks, bounded queues, retries with a budget and upgrades without a gap, in
 one program with one config file.
";

const COPYRIGHT: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: sumun
Source: https://github.com/sumun/sumun
Comment: The program contains libraries under other free licences, all of which
 deny.toml of the source lists.

Files: *
Copyright: 2026 The Sumun authors
License: Apache-2.0
 On Debian systems the text of this licence is in
 /usr/share/common-licenses/Apache-2.0.
";

#[derive(Args)]
pub(crate) struct Options {
    /// Package this program instead of building one with the `dist` profile
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// The folder for the package [default: debian/ in the target folder]
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Fallible<bool> {
    for (program, package) in [("dpkg-deb", "dpkg"), ("gzip", "gzip"), ("md5sum", "coreutils")] {
        if find_program(program).is_none() {
            return Err(format!("{program} is needed; on Debian it comes with the package {package}").into());
        }
    }
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => {
            if !passes(&mut cargo(&["build", "--locked", "--profile", "dist", "--package", "sumun"]))? {
                return Ok(false);
            }
            target_folder().join("dist/sumun")
        }
    };
    let folder = options.output.clone().unwrap_or_else(|| target_folder().join("debian"));
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    lay_out(&root, &binary)?;
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    control(&root, &architecture)?;
    let package = folder.join(format!("{PACKAGE}_{}_{architecture}.deb", version()));
    // Owned by root, whoever builds it.
    output(Command::new("dpkg-deb").args(["--root-owner-group", "-Zxz", "--build"]).arg(&root).arg(&package))?;
    fs::remove_dir_all(&root)?;
    println!("{}", package.display());
    Ok(true)
}

fn version() -> String {
    format!("{}-{REVISION}", env!("CARGO_PKG_VERSION"))
}

/// Everything that the package installs, below `root`.
fn lay_out(root: &Path, binary: &Path) -> Fallible<()> {
    let packaging = workspace().join("packaging");
    let place = |from: &Path, to: &str, mode: u32| -> Fallible<()> {
        let bytes = fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?;
        write(root, to, &bytes, mode)
    };
    place(binary, "usr/bin/sumun", 0o755)?;
    let program = root.join("usr/bin/sumun");
    if find_program("strip").is_some() {
        output(Command::new("strip").args(["--strip-unneeded", "--remove-section=.comment"]).arg(&program))?;
    }
    place(&packaging.join("sumun.yaml"), "etc/sumun/sumun.yaml", 0o644)?;
    place(&packaging.join("sumun.logrotate"), "etc/logrotate.d/sumun", 0o644)?;
    place(&packaging.join("sumun.service"), &format!("{UNITS}/sumun.service"), 0o644)?;
    // Its owner's and its group's alone once it is installed (postinst).
    folder(root, "var/log/sumun")?;

    let say = |arguments: &[&str]| output(Command::new(&program).args(arguments));
    write(root, "usr/share/man/man1/sumun.1", say(&["man"])?.as_bytes(), 0o644)?;
    let completions = [
        ("bash", "usr/share/bash-completion/completions/sumun"),
        ("zsh", "usr/share/zsh/vendor-completions/_sumun"),
        ("fish", "usr/share/fish/vendor_completions.d/sumun.fish"),
    ];
    for (shell, path) in completions {
        write(root, path, say(&["completions", shell])?.as_bytes(), 0o644)?;
    }
    write(root, "usr/share/sumun/sumun.schema.json", say(&["schema"])?.as_bytes(), 0o644)?;

    let docs = "usr/share/doc/sumun";
    write(root, &format!("{docs}/copyright"), COPYRIGHT.as_bytes(), 0o644)?;
    place(&workspace().join("CHANGELOG.md"), &format!("{docs}/changelog"), 0o644)?;
    write(root, &format!("{docs}/changelog.Debian"), changelog()?.as_bytes(), 0o644)?;
    for (from, to) in [("docs", docs.to_owned()), ("examples", format!("{docs}/examples"))] {
        copy_files(&workspace().join(from), root, &to)?;
    }
    for path in ["usr/share/man/man1/sumun.1", "usr/share/doc/sumun/changelog", "usr/share/doc/sumun/changelog.Debian"]
    {
        // Without its name and time, so that the same source gives the same package.
        output(Command::new("gzip").args(["-9", "--no-name"]).arg(root.join(path)))?;
    }
    Ok(())
}

/// What dpkg has to know of it: the control file, the maintainer scripts, checksums.
fn control(root: &Path, architecture: &str) -> Fallible<()> {
    let library = library_version(&fs::read(root.join("usr/bin/sumun"))?);
    let size_kib: u64 = files(root)?.iter().map(|path| size_kib(path)).sum::<Fallible<u64>>()?;
    let text = format!(
        "Package: {PACKAGE}\nVersion: {}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {size_kib}\nDepends: adduser, init-system-helpers (>= 1.52), \
         libc6 (>= {library}), libgcc-s1\nRecommends: ca-certificates\nSuggests: logrotate\nSection: httpd\nPriority: optional\n\
         Homepage: {HOMEPAGE}\n{DESCRIPTION}",
        version()
    );
    let mut sums = String::new();
    for path in files(root)? {
        let name = path.strip_prefix(root)?.display().to_string();
        // Config files may change, and are watched by their own sums.
        if !name.starts_with("etc/") {
            sums.push_str(&output(Command::new("md5sum").arg(&name).current_dir(root))?);
        }
    }
    write(root, "DEBIAN/control", text.as_bytes(), 0o644)?;
    write(root, "DEBIAN/conffiles", b"/etc/logrotate.d/sumun\n/etc/sumun/sumun.yaml\n", 0o644)?;
    write(root, "DEBIAN/md5sums", sums.as_bytes(), 0o644)?;
    for script in ["postinst", "prerm", "postrm"] {
        let bytes = fs::read(workspace().join("packaging/debian").join(script))?;
        write(root, &format!("DEBIAN/{script}"), &bytes, 0o755)?;
    }
    Ok(())
}

fn changelog() -> Fallible<String> {
    // Of the last change, not of the day of the build.
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%cD"]).current_dir(workspace());
    let date = output(&mut git).or_else(|_| output(Command::new("date").arg("--rfc-email")))?;
    Ok(format!(
        "{PACKAGE} ({}) unstable; urgency=medium\n\n  * See changelog.gz for what changed.\n\n -- {MAINTAINER}  {}\n",
        version(),
        date.trim()
    ))
}

/// The newest version of the C library whose symbols the program asks for, as `2.34`.
fn library_version(program: &[u8]) -> String {
    const PREFIX: &[u8] = b"GLIBC_2.";
    let minors = program.windows(PREFIX.len() + 2).filter(|window| window.starts_with(PREFIX)).filter_map(|window| {
        let digits: String = window[PREFIX.len()..].iter().map(|byte| char::from(*byte)).collect();
        digits.trim_end_matches(|last: char| !last.is_ascii_digit()).parse::<u32>().ok()
    });
    format!("2.{}", minors.max().unwrap_or(17))
}

fn write(root: &Path, to: &str, bytes: &[u8], mode: u32) -> Fallible<()> {
    let path = root.join(to);
    if let Some((above, _)) = to.rsplit_once('/') {
        folder(root, above)?;
    }
    fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(mode))?)
}

/// A folder, and those above it, with the usual mode, whatever the umask is.
fn folder(root: &Path, to: &str) -> Fallible<()> {
    let mut path = root.to_owned();
    fs::create_dir_all(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    for part in Path::new(to) {
        path.push(part);
        if !path.exists() {
            fs::create_dir(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// All files below `from` to the folder `to` of the package.
fn copy_files(from: &Path, root: &Path, to: &str) -> Fallible<()> {
    for path in files(from)? {
        let name = path.strip_prefix(from)?;
        write(root, &format!("{to}/{}", name.display()), &fs::read(&path)?, 0o644)?;
    }
    Ok(())
}

/// All files below a folder, sorted; the package's own description is not one of them.
fn files(folder: &Path) -> Fallible<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == "DEBIAN") {
            continue;
        }
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    found.sort();
    Ok(found)
}

/// As it counts for the size of the package: in whole KiB.
fn size_kib(path: &Path) -> Fallible<u64> {
    Ok(fs::metadata(path)?.len().div_ceil(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_tells_the_library() {
        assert_eq!(library_version(b"..GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE"), "2.34");
        assert_eq!(library_version(b"nothing"), "2.17");
    }

    /// The unit runs what the package installs, with the config file that the package brings.
    #[test]
    fn the_unit_and_the_scripts_name_what_is_installed() {
        let read = |name: &str| fs::read_to_string(workspace().join("packaging").join(name)).unwrap();
        for name in ["sumun.service", "debian/postinst"] {
            assert!(read(name).contains("-c /etc/sumun/sumun.yaml"), "{name}");
        }
        for script in ["debian/postinst", "debian/prerm", "debian/postrm"] {
            let text = read(script);
            assert!(text.starts_with("#!/bin/sh\nset -e\n") && text.contains("sumun.service"), "{script}");
        }
    }
}
