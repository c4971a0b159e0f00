//! Builds the kernel in a tree that survives interruption.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::source::Source;
use super::{CONFIG, FINAL_CONFIG, IMAGE};
use crate::cache::{Workplace, make_directory, remove_tree};
use crate::command::Tool;
use crate::error::Error;
use crate::host::Need;
use crate::progress::Progress;

/// What a build needs beside the source.
pub(super) const NEEDS: [Need; 9] = [
    need("gcc", "gcc", "compiles the guest kernel"),
    need("make", "make", "builds the guest kernel"),
    need("flex", "flex", "reads the kernel's options"),
    need("bison", "bison", "reads the kernel's options"),
    need("bc", "bc", "the kernel's build calls it"),
    need("ld", "binutils", "links the guest kernel"),
    need(
        "/usr/include/gelf.h",
        "libelf-dev",
        "the kernel's objtool needs it",
    ),
    need("xz", "xz-utils", "unpacks the kernel's source"),
    need("tar", "tar", "unpacks the kernel's source"),
];

const fn need(program: &'static str, package: &'static str, why: &'static str) -> Need {
    Need {
        program,
        package,
        why,
    }
}

/// Lines that a whole build writes, about: 6.12.117 with gcc 12.
const EXPECTED_LINES: u64 = 2_300;
/// Files and directories of the source, about.
const EXPECTED_FILES: u64 = 72_000;
/// Every so many lines the count is written down for a build that resumes.
const LINES_PER_NOTE: u64 = 40;

/// Parts of the source that no configuration of ours compiles. They are a
/// third of it. Their Kconfig files stay: the option tree names them.
const LEFT_OUT: [&str; 8] = [
    "*/drivers/gpu/*.[ch]",
    "*/drivers/media/*.[ch]",
    "*/drivers/infiniband/*.[ch]",
    "*/drivers/net/ethernet/*.[ch]",
    "*/drivers/net/wireless/*.[ch]",
    "*/sound/*.[ch]",
    "*/Documentation/*/*",
    "*/tools/testing/*",
];

/// Fills `place` with the kernel, its final options; returns its release.
pub(super) fn build(
    place: &Workplace<'_>,
    source: &Source,
    progress: &dyn Progress,
) -> Result<String, Error> {
    let work = place.work()?;
    let tree = work.join("tree");
    unpack(source, work, &tree, progress)?;
    configure(&tree, work, progress)?;
    compile(&tree, work, progress)?;

    let image = place.entry.join(IMAGE);
    Tool::new("strip", "strip the guest kernel")
        .arg("-o")
        .args([&image, &tree.join("vmlinux")])
        .run(progress, &mut |_| {})?;
    let config = tree.join(".config");
    fs::copy(&config, place.entry.join(FINAL_CONFIG)).map_err(Error::file("copy", &config))?;
    let release = tree.join("include/config/kernel.release");
    let text = fs::read_to_string(&release).map_err(Error::file("read", &release))?;
    Ok(text.trim().to_owned())
}

fn unpack(source: &Source, work: &Path, tree: &Path, progress: &dyn Progress) -> Result<(), Error> {
    let done = work.join("unpacked");
    if done.exists() {
        return Ok(());
    }
    remove_tree(tree)?;
    make_directory(tree)?;
    let mut files = 0;
    Tool::new("tar", "unpack the kernel source")
        .args([
            "--extract",
            "--verbose",
            "--strip-components=1",
            "--no-same-owner",
        ])
        .args(LEFT_OUT.map(|pattern| format!("--exclude={pattern}")))
        .arg("--file")
        .arg(&source.archive)
        .arg("--directory")
        .arg(tree)
        .run(progress, &mut |_| {
            files += 1;
            if files % 200 == 0 {
                progress.step("unpack kernel source", files, EXPECTED_FILES.max(files));
            }
        })?;
    progress.step("unpack kernel source", files, files);
    fs::write(&done, b"").map_err(Error::file("write", &done))
}

fn configure(tree: &Path, work: &Path, progress: &dyn Progress) -> Result<(), Error> {
    let done = work.join("configured");
    if done.exists() {
        return Ok(());
    }
    let options = work.join("sbx.config");
    fs::write(&options, CONFIG).map_err(Error::file("write", &options))?;
    let task = "configure the guest kernel";
    make(tree, task)
        .args(["-s", "tinyconfig"])
        .run(progress, &mut |_| {})?;
    Tool::new("sh", task)
        .args(["scripts/kconfig/merge_config.sh", "-m", ".config"])
        .arg(&options)
        .directory(tree)
        .run(progress, &mut |_| {})?;
    make(tree, task)
        .args(["-s", "olddefconfig"])
        .run(progress, &mut |_| {})?;
    fs::write(&done, b"").map_err(Error::file("write", &done))
}

fn compile(tree: &Path, work: &Path, progress: &dyn Progress) -> Result<(), Error> {
    let note = work.join("lines");
    let mut lines: u64 = fs::read_to_string(&note)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let step = "build kernel";
    progress.step(step, lines, EXPECTED_LINES);
    make(tree, "build the guest kernel")
        .arg(format!("-j{jobs}"))
        .arg("vmlinux")
        .run(progress, &mut |line| {
            // "  CC      mm/slub.o"; anything else is no unit of work.
            if !line.starts_with("  ") {
                return;
            }
            lines += 1;
            progress.step(step, lines, EXPECTED_LINES.max(lines));
            if lines.is_multiple_of(LINES_PER_NOTE) {
                // Only the bar of a resumed build depends on it.
                let _ = fs::File::create(&note).and_then(|mut f| writeln!(f, "{lines}"));
            }
        })?;
    progress.step(step, lines, lines);
    Ok(())
}

/// `make` with everything fixed that could make two builds differ.
fn make(tree: &Path, task: &str) -> Tool {
    Tool::new("make", task)
        .directory(tree)
        .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
        .env("KBUILD_BUILD_USER", "sbx")
        .env("KBUILD_BUILD_HOST", "sbx")
        .env("KBUILD_BUILD_VERSION", "1")
        .contained()
}
