//! The house rules that no compiler checks: what may depend on what, where unsafe
//! code lives, how long files are, what is in the repository at all.
//!
//! Each rule is a function from the tree to its violations, and has a test that
//! shows that it can fail.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "an integration test is all test: it stops at the first surprise"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Most lines of a file before its tests.
const LINES_MAX: usize = 500;
/// Most lines of a file that is all tests.
const TEST_LINES_MAX: usize = 800;
/// Most columns of a line.
const COLUMNS_MAX: usize = 120;
/// Most bytes of a file written by hand.
const BYTES_MAX: usize = 256 * 1024;

/// Files that are longer than they may be, with a length they must not exceed
/// either. A debt that is paid must be struck off.
const DEBTS: &[(&str, usize)] = &[];

/// Where unsafe code may be.
const UNSAFE_ROOMS: &[&str] = &["hypervisor/kernel/", "appliance/src/bare/"];

/// Each crate and the crates of this workspace it may use.
const GRAPH: &[(&str, &[&str])] = &[
    ("hv-x86", &[]),
    ("hv-abi", &["hv-x86"]),
    ("hv-bus", &["hv-abi", "hv-x86"]),
    ("hv-core", &["hv-abi", "hv-x86"]),
    ("hypervisor", &["hv-abi", "hv-core", "hv-x86"]),
    ("netstack", &["hv-abi", "hv-bus", "hv-x86"]),
    ("storage", &["hv-abi", "hv-bus", "hv-x86"]),
    ("mgmt-proto", &["storage"]),
    ("machine", &["hv-abi", "hv-x86"]),
    ("appliance", &["hv-abi", "hv-bus", "hv-x86", "machine", "mgmt-proto", "netstack", "storage"]),
    ("keys", &[]),
    ("redoubt", &["keys", "mgmt-proto", "storage"]),
    ("image-builder", &["hv-abi", "hv-x86", "keys", "mgmt-proto"]),
    ("qemu-tests", &["hv-abi", "image-builder", "keys", "mgmt-proto", "redoubt", "storage"]),
];

/// What tests may use besides.
const TEST_GRAPH: &[(&str, &[&str])] = &[("image-builder", &["appliance"]), ("qemu-tests", &["appliance"])];

/// Libraries that reach the image: without the standard library.
const BARE: &[&str] =
    &["hv-x86", "hv-abi", "hv-bus", "hv-core", "netstack", "storage", "mgmt-proto", "machine", "appliance"];

/// Packages that were chosen for the image: each has its job there.
const CHOSEN: &[&str] = &[
    "smoltcp",
    "embedded-io",
    "heapless",
    "postcard",
    "x86_64",
    "spin",
    "hashbrown",
    "ed25519-dalek",
    "log",
    "zerocopy",
];

/// The parts of the node, which do not know it.
const PARTS: &[&str] = &["guests", "blobs", "volumes", "network", "operators", "trust", "state"];

struct File {
    path: String,
    bytes: Vec<u8>,
}

impl File {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }
}

struct Package {
    name: String,
    /// `(name, kind)` of those in this workspace; a kind is empty for ordinary use.
    dependencies: Vec<(String, String)>,
    /// Names of those that are not of this workspace.
    libraries: Vec<String>,
    /// `(kind, top module)`.
    targets: Vec<(String, String)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Everything in the repository, as it is on disk.
fn tree() -> Vec<File> {
    let list = String::from_utf8(run("git", &["ls-files", "-z"])).unwrap();
    let paths = list.split('\0').filter(|path| !path.is_empty());
    let read =
        |path: &str| Some(File { path: path.to_string(), bytes: std::fs::read(root().join(path)).ok()? });
    let files: Vec<File> = paths.filter_map(read).collect();
    assert!(files.len() > 100, "the repository was found");
    files
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string());
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let data: serde_json::Value = serde_json::from_slice(&run(&cargo, &arguments)).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
    let prefix = root().to_string_lossy().to_string() + "/";
    let mut packages = Vec::new();
    for package in data["packages"].as_array().unwrap() {
        let dependencies = package["dependencies"].as_array().unwrap();
        let own = dependencies.iter().filter(|it| !it["path"].is_null());
        let others = dependencies.iter().filter(|it| it["path"].is_null() && it["kind"].is_null());
        let targets = package["targets"].as_array().unwrap().iter();
        packages.push(Package {
            name: text(&package["name"]),
            dependencies: own.map(|it| (text(&it["name"]), text(&it["kind"]))).collect(),
            libraries: others.map(|it| text(&it["name"])).collect(),
            targets: targets
                .map(|it| (text(&it["kind"][0]), text(&it["src_path"]).replace(&prefix, "")))
                .collect(),
        });
    }
    packages
}

/// Lines that are not tests.
fn own_lines(file: &File) -> usize {
    let lines = file.text().lines();
    if file.is_test() { lines.count() } else { lines.take_while(|line| *line != "#[cfg(test)]").count() }
}

fn long_files(files: &[File], debts: &[(&str, usize)]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let (lines, cap) = (own_lines(file), if file.is_test() { TEST_LINES_MAX } else { LINES_MAX });
        let debt = debts.iter().find(|(path, _)| *path == file.path).map(|(_, debt)| *debt);
        if lines > debt.unwrap_or(cap) {
            found.push(format!("{}: {lines} lines, {} are the most", file.path, debt.unwrap_or(cap)));
        } else if debt.is_some() && lines <= cap {
            found.push(format!("{}: its debt is paid, strike it off", file.path));
        }
    }
    found
}

fn wide_lines(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let mut script = false;
        for (number, line) in file.text().lines().enumerate() {
            let inside = script;
            // The quotes of a text over many lines.
            script =
                if script { !line.contains("\"#") } else { line.contains("r#\"") && !line.contains("\"#") };
            if inside {
                continue;
            }
            // A text or a script inside quotes is as long as it is.
            let (first, last) = (line.find('"'), line.rfind('"'));
            let quoted = first.zip(last).map_or(0, |(first, last)| line[first..last].chars().count());
            let columns = line.chars().count() - quoted;
            if columns > COLUMNS_MAX {
                found.push(format!("{}:{}: {columns} columns", file.path, number + 1));
            }
        }
    }
    found
}

/// Lines of Rust that hold one of some words, comments left out.
fn lines_with(files: &[File], words: &[String], wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && wanted(&file.path)) {
        for (number, line) in file.text().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word.as_str())) {
                found.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    found
}

// The words are put together here, so that this file does not hold them.
fn unsafe_outside(files: &[File]) -> Vec<String> {
    let words = ["{", "fn", "impl", "trait", "extern"].map(|what| format!("{} {what}", "unsafe"));
    lines_with(files, &words, |path| !UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)))
}

fn parts_that_know_the_node(files: &[File]) -> Vec<String> {
    let is_part = |path: &str| {
        PARTS.iter().any(|part| {
            let own = path.strip_prefix("appliance/src/").and_then(|path| path.strip_prefix(part));
            own.is_some_and(|rest| rest.starts_with(['.', '/']))
        })
    };
    let own: Vec<File> = files
        .iter()
        .filter(|file| is_part(&file.path))
        .map(|file| File {
            path: file.path.clone(),
            bytes: file.text().split("#[cfg(test)]\nmod ").next().unwrap_or_default().into(),
        })
        .collect();
    lines_with(&own, &["crate::node".to_string()], |_| true)
}

/// Chosen packages that no crate of the image depends on and uses.
fn idle_packages(files: &[File], packages: &[Package]) -> Vec<String> {
    let is_of_image =
        |package: &&Package| BARE.contains(&package.name.as_str()) || package.name == "hypervisor";
    let serves = |chosen: &str| {
        let path = chosen.replace('-', "_") + "::";
        packages.iter().filter(is_of_image).filter(|it| it.libraries.iter().any(|name| name == chosen)).any(
            |package| {
                let folder = package.targets.first().and_then(|(_, path)| path.rsplit_once('/'));
                let is_own = |file: &str| folder.is_some_and(|(folder, _)| file.starts_with(folder));
                let is_used = |file: &File| {
                    is_own(&file.path)
                        && !file.is_test()
                        && file.text().lines().take(own_lines(file)).any(|line| line.contains(&path))
                };
                files.iter().filter(|file| file.is_rust()).any(is_used)
            },
        )
    };
    CHOSEN.iter().filter(|chosen| !serves(chosen)).map(|chosen| format!("{chosen}: has no job")).collect()
}

/// Files that documents name by their whole path, and that are not there.
fn missing_files(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for document in files.iter().filter(|file| file.path.ends_with(".md")) {
        for name in document.text().split('`').skip(1).step_by(2) {
            let top = name.split('/').next().unwrap_or_default();
            let is_path = name.contains('/') && name.ends_with(".rs") && !name.contains(['{', ' ', '*']);
            let is_whole = files.iter().any(|file| file.path.split('/').next() == Some(top));
            if is_path && is_whole && !files.iter().any(|file| file.path == name) {
                found.push(format!("{}: names {name}, which is not there", document.path));
            }
        }
    }
    found
}

fn unfinished(files: &[File]) -> Vec<String> {
    lines_with(files, &["todo", "unimplemented"].map(|word| format!("{word}!(")), |_| true)
}

/// Top modules without a header, or without what their kind must promise.
fn top_modules(files: &[File], packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    for package in packages {
        for (kind, path) in &package.targets {
            let Some(file) = files.iter().find(|file| file.path == *path) else { continue };
            let text = file.text();
            if kind != "custom-build" && !text.starts_with("//! ") {
                found.push(format!("{path}: says not what it is"));
            }
            // The harness drives machines; it is no pure library.
            if kind == "lib" && package.name != "qemu-tests" && !text.contains("#![forbid(unsafe_code)]") {
                found.push(format!("{path}: does not forbid unsafe code"));
            }
            if kind == "lib" && BARE.contains(&package.name.as_str()) && !text.contains("#![no_std]") {
                found.push(format!("{path}: needs the standard library"));
            }
        }
    }
    found
}

fn modules_without_header(files: &[File]) -> Vec<String> {
    let source = |file: &&File| file.is_rust() && !file.is_test() && file.path.contains("/src/");
    let silent = files.iter().filter(source).filter(|file| !file.text().starts_with("//!"));
    silent.map(|file| file.path.clone()).collect()
}

fn wrong_edges(packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    let allowed = |graph: &[(&str, &[&'static str])], name: &str| -> BTreeSet<&'static str> {
        graph.iter().filter(|(it, _)| *it == name).flat_map(|(_, uses)| uses.iter().copied()).collect()
    };
    for package in packages {
        if !GRAPH.iter().any(|(name, _)| *name == package.name) {
            found.push(format!("{}: not in the graph", package.name));
        }
        let own = allowed(GRAPH, &package.name);
        let tests = allowed(TEST_GRAPH, &package.name);
        for (name, kind) in &package.dependencies {
            let fine = own.contains(name.as_str()) || (kind == "dev" && tests.contains(name.as_str()));
            if !fine {
                found.push(format!("{} must not use {name} {kind}", package.name));
            }
        }
    }
    found
}

fn generated_files(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    let endings = ["o", "a", "so", "img", "iso", "bin", "elf", "efi", "pem", "key", "orig", "rej", "swp"];
    for file in files {
        let ending = file.path.rsplit('.').next().unwrap_or_default();
        if file.bytes.len() > BYTES_MAX {
            found.push(format!("{}: {} bytes", file.path, file.bytes.len()));
        }
        if file.bytes.contains(&0) || std::str::from_utf8(&file.bytes).is_err() {
            found.push(format!("{}: is no text", file.path));
        }
        if endings.contains(&ending) || file.path.starts_with("target/") {
            found.push(format!("{}: is generated or secret", file.path));
        }
    }
    found
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn files_are_short() {
    assert_none(&long_files(&tree(), DEBTS));
}

#[test]
fn lines_are_short() {
    assert_none(&wide_lines(&tree()));
}

#[test]
fn unsafe_code_has_its_rooms() {
    assert_none(&unsafe_outside(&tree()));
}

#[test]
fn nothing_is_left_to_be_done() {
    assert_none(&unfinished(&tree()));
}

#[test]
fn parts_of_the_node_do_not_know_it() {
    assert_none(&parts_that_know_the_node(&tree()));
}

#[test]
fn chosen_packages_have_their_jobs() {
    assert_none(&idle_packages(&tree(), &packages()));
}

#[test]
fn documents_name_files_that_are_there() {
    assert_none(&missing_files(&tree()));
    let tree = |text: &str| [file("README.md", text), file("storage/src/lib.rs", "")];
    assert_eq!(missing_files(&tree("see `storage/src/lib.rs` and `a/b.rs`")).len(), 0);
    assert_eq!(missing_files(&tree("see `storage/src/gone.rs`")).len(), 1);
}

#[test]
fn rules_of_parts_and_packages_can_fail() {
    let part = |text: &str| parts_that_know_the_node(&[file("appliance/src/state/a.rs", text)]).len();
    assert_eq!(part("use crate::node::Node;"), 1);
    assert_eq!(part("#[cfg(test)]\nmod tests { use crate::node::tests; }"), 0);
    let flow = file("appliance/src/node/flows/state.rs", "use crate::node::Node;");
    assert_eq!(parts_that_know_the_node(&[flow]).len(), 0);
    let idle = |text: &str, libraries: &[&str]| {
        let mut storage = package("storage", &[], ("lib", "storage/src/lib.rs"));
        storage.libraries = libraries.iter().map(ToString::to_string).collect();
        idle_packages(&[file("storage/src/a.rs", text)], &[storage]).len()
    };
    assert_eq!(idle("use embedded_io::Read;", &["embedded-io"]), CHOSEN.len() - 1);
    assert_eq!(idle("use embedded_io::Read;", &[]), CHOSEN.len());
    assert_eq!(idle("// nothing", &["embedded-io"]), CHOSEN.len());
}

#[test]
fn top_modules_say_what_they_are() {
    assert_none(&top_modules(&tree(), &packages()));
    assert_none(&modules_without_header(&tree()));
}

#[test]
fn dependencies_point_one_way() {
    assert_none(&wrong_edges(&packages()));
}

#[test]
fn the_repository_holds_what_people_wrote() {
    assert_none(&generated_files(&tree()));
}

fn file(path: &str, text: &str) -> File {
    File { path: path.to_string(), bytes: text.as_bytes().to_vec() }
}

fn package(name: &str, uses: &[(&str, &str)], target: (&str, &str)) -> Package {
    let pair = |(left, right): (&str, &str)| (left.to_string(), right.to_string());
    Package {
        name: name.to_string(),
        dependencies: uses.iter().copied().map(pair).collect(),
        libraries: Vec::new(),
        targets: vec![pair(target)],
    }
}

#[test]
fn length_rules_can_fail() {
    let long = "x\n".repeat(LINES_MAX + 1);
    assert_eq!(long_files(&[file("a/src/b.rs", &long)], &[]).len(), 1);
    assert_eq!(long_files(&[file("a/src/b.md", &long), file("a/src/b/tests.rs", &long)], &[]).len(), 0);
    let tested = "x\n".repeat(LINES_MAX) + "#[cfg(test)]\n" + &long;
    assert_eq!(long_files(&[file("a/src/b.rs", &tested)], &[]).len(), 0);
    assert_eq!(long_files(&[file("a/tests/b.rs", &long.repeat(2))], &[]).len(), 1);
    assert_eq!(long_files(&[file("a/src/b.rs", &long)], &[("a/src/b.rs", LINES_MAX + 1)]).len(), 0);
    assert_eq!(long_files(&[file("a/src/b.rs", &(long + "x\n"))], &[("a/src/b.rs", LINES_MAX + 1)]).len(), 1);
    assert_eq!(long_files(&[file("a/src/b.rs", "x\n")], &[("a/src/b.rs", LINES_MAX + 1)]).len(), 1);
    let wide = "é".repeat(COLUMNS_MAX + 1);
    assert_eq!(wide_lines(&[file("a/src/b.rs", &wide), file("a/b.md", &wide)]).len(), 1);
    let script = format!("const A: &str = r#\"\n{wide}\n\"#;\n");
    assert_eq!(wide_lines(&[file("a/src/b.rs", &script)]).len(), 0);
    assert_eq!(wide_lines(&[file("a/src/b.rs", &(script + &wide))]).len(), 1);
    assert_eq!(wide_lines(&[file("a/src/b.rs", &format!("let a = \"{wide}\";"))]).len(), 0);
    assert_eq!(wide_lines(&[file("a/src/b.rs", &"é".repeat(COLUMNS_MAX))]).len(), 0);
}

#[test]
fn word_rules_can_fail() {
    for what in ["{ x }", "fn x()", "impl X for Y {}"] {
        let text = format!("{} {what}\n", "unsafe");
        assert_eq!(unsafe_outside(&[file("netstack/src/a.rs", &text)]).len(), 1);
        assert_eq!(unsafe_outside(&[file("appliance/src/node/a.rs", &text)]).len(), 1);
        assert_eq!(unsafe_outside(&[file("appliance/src/bare/a.rs", &text)]).len(), 0);
        assert_eq!(unsafe_outside(&[file("netstack/src/a.rs", &format!("// {text}"))]).len(), 0);
    }
    for word in ["todo", "unimplemented"] {
        assert_eq!(unfinished(&[file("a/src/b.rs", &format!("    {word}!()"))]).len(), 1);
    }
}

#[test]
fn header_rules_can_fail() {
    let storage = [package("storage", &[], ("lib", "storage/src/lib.rs"))];
    let found = |text: &str| top_modules(&[file("storage/src/lib.rs", text)], &storage).len();
    assert_eq!(found("//! Storage.\n#![no_std]\n#![forbid(unsafe_code)]\n"), 0);
    assert_eq!(found("#![no_std]\n#![forbid(unsafe_code)]\n"), 1);
    assert_eq!(found("//! Storage.\n#![forbid(unsafe_code)]\n"), 1);
    assert_eq!(found("//! Storage.\n#![no_std]\n"), 1);
    assert_eq!(modules_without_header(&[file("a/src/b.rs", "use x;"), file("a/tests/b.rs", "")]).len(), 1);
}

#[test]
fn graph_rules_can_fail() {
    let wrong = |name: &str, uses: &[(&str, &str)]| wrong_edges(&[package(name, uses, ("lib", ""))]).len();
    assert_eq!(wrong("netstack", &[("hv-abi", "")]), 0);
    for (name, uses) in [
        ("netstack", "storage"),
        ("storage", "netstack"),
        ("storage", "appliance"),
        ("hv-x86", "hv-abi"),
        ("mgmt-proto", "netstack"),
        ("appliance", "hv-core"),
        ("image-builder", "appliance"),
    ] {
        assert_eq!(wrong(name, &[(uses, "")]), 1, "{name} uses {uses}");
    }
    assert_eq!(wrong("netstack", &[("storage", "dev")]), 1);
    assert_eq!(wrong("image-builder", &[("appliance", "dev")]), 0);
    assert_eq!(wrong("newcomer", &[]), 1);
}

#[test]
fn content_rules_can_fail() {
    let clean = [file("README.md", "text"), file("keys/src/key.rs", "//! Keys.")];
    assert_eq!(generated_files(&clean).len(), 0);
    let wrong = |path: &str, text: &str| generated_files(&[file(path, text)]).len();
    assert_eq!(wrong("a.md", "\0"), 1);
    assert_eq!(wrong("a.md", &"x".repeat(BYTES_MAX + 1)), 1);
    assert_eq!(wrong("owner.key", "x"), 1);
    assert_eq!(wrong("target/a.md", "x"), 1);
    assert_eq!(generated_files(&[File { path: "README".to_string(), bytes: vec![0xff] }]).len(), 1);
}
