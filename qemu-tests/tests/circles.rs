//! No circle of files: what a file names, by `use` or a path, does not lead back to it.
//! A parent and its own children, who share what is theirs, are no circle.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "an integration test is all test: it stops at the first surprise"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::visit::Visit;
use syn::{Attribute, ItemMod, ItemUse, UseTree};

/// Crates by the folder of their root file, that file, and how many files are in circles: a
/// debt, which may only become less.
const CRATES: &[(&str, &str, usize)] = &[
    ("hypervisor/x86/src", "lib.rs", 0),
    ("hypervisor/abi/src", "lib.rs", 0),
    ("hypervisor/bus/src", "lib.rs", 0),
    ("hypervisor/core/src", "lib.rs", 0),
    ("hypervisor/kernel/src", "main.rs", 0),
    ("netstack/src", "lib.rs", 0),
    ("storage/src", "lib.rs", 0),
    ("mgmt-proto/src", "lib.rs", 0),
    ("mgmt-proto/cli/src", "lib.rs", 0),
    ("mgmt-proto/cli/src", "main.rs", 0),
    ("appliance/machine/src", "lib.rs", 0),
    ("appliance/src", "lib.rs", 0),
    ("appliance/src/bare", "main.rs", 0),
    ("image-builder/src", "lib.rs", 0),
    ("keys/src", "lib.rs", 0),
    ("qemu-tests/src", "lib.rs", 0),
];

/// A module's place in its crate; the root's is empty.
type Place = Vec<String>;

/// What the files of a crate name of each other.
type Edges = BTreeMap<Place, BTreeSet<Place>>;

/// The paths that a file names, tests aside.
struct Names {
    own: Place,
    found: Vec<Place>,
}

impl Names {
    /// Adds a path from where `crate`, `self` or `super` says; others are of other crates, or
    /// begin at what a `use` has named.
    fn add(&mut self, path: &[String]) {
        let mut place = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.own.clone(),
            _ => return,
        };
        for word in path {
            match word.as_str() {
                "crate" | "self" => {}
                "super" => drop(place.pop()),
                _ => place.push(word.clone()),
            }
        }
        self.found.push(place);
    }

    fn add_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |word: String| [before, &[word]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&with(path.ident.to_string()), &path.tree),
            UseTree::Name(name) => self.add(&with(name.ident.to_string())),
            UseTree::Rename(name) => self.add(&with(name.ident.to_string())),
            UseTree::Glob(_) => self.add(before),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.add_tree(before, item)),
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|it| {
        it.path().is_ident("cfg") && it.parse_args::<syn::Path>().is_ok_and(|what| what.is_ident("test"))
    })
}

impl<'a> Visit<'a> for Names {
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if is_test(&item.attrs) {
            return;
        }
        self.own.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.own.pop();
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        if !is_test(&item.attrs) {
            self.add_tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let words: Vec<String> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        self.add(&words);
        syn::visit::visit_path(self, path);
    }
}

/// What each file names of the others: the file with the longest place that a path begins with.
fn edges(files: &BTreeMap<Place, String>) -> Edges {
    let mut edges = Edges::new();
    for (own, text) in files {
        let mut names = Names { own: own.clone(), found: Vec::new() };
        names.visit_file(&syn::parse_file(text).unwrap());
        let file_of =
            |path: Place| (0..=path.len()).rev().find_map(|count| files.get_key_value(&path[..count]));
        let others = names.found.into_iter().filter_map(file_of).map(|(place, _)| place.clone());
        let is_family = |other: &Place| other.starts_with(own) || own.starts_with(other);
        edges.insert(own.clone(), others.filter(|other| !is_family(other)).collect());
    }
    edges
}

/// All that a file leads to.
fn reach<'a>(edges: &'a Edges, from: &'a Place) -> BTreeSet<&'a Place> {
    let mut found = BTreeSet::new();
    let mut left = vec![from];
    while let Some(place) = left.pop() {
        left.extend(edges[place].iter().filter(|next| found.insert(*next)));
    }
    found
}

/// The circles: files that lead to each other.
fn circles(edges: &Edges) -> Vec<Vec<Place>> {
    let reached: BTreeMap<&Place, BTreeSet<&Place>> =
        edges.keys().map(|place| (place, reach(edges, place))).collect();
    let mut circles: BTreeSet<Vec<Place>> = BTreeSet::new();
    for (place, others) in reached.iter().filter(|(place, others)| others.contains(*place)) {
        let circle = others.iter().filter(|other| reached[**other].contains(place));
        circles.insert(circle.map(|place| (*place).clone()).collect());
    }
    circles.into_iter().collect()
}

/// The files of a crate, without those that are all tests or another crate's.
fn files(folder: &Path, root: &str) -> BTreeMap<Place, String> {
    let mut files = BTreeMap::new();
    let mut left = vec![(folder.join(root), Place::new())];
    while let Some((path, place)) = left.pop() {
        let text = std::fs::read_to_string(&path).unwrap();
        let own = path.file_stem().unwrap().to_str().unwrap();
        let below = match own {
            "lib" | "main" | "mod" => path.parent().unwrap().to_path_buf(),
            stem => path.parent().unwrap().join(stem),
        };
        for item in syn::parse_file(&text).unwrap().items {
            let syn::Item::Mod(item) = item else { continue };
            if item.content.is_some() || is_test(&item.attrs) {
                continue;
            }
            let name = item.ident.to_string();
            let choices = [below.join(format!("{name}.rs")), below.join(&name).join("mod.rs")];
            let found = choices.into_iter().find(|choice| choice.exists());
            let next = [&place[..], &[name]].concat();
            left.extend(found.map(|found| (found, next)));
        }
        files.insert(place, text);
    }
    files
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

#[test]
fn no_file_leads_back_to_itself() {
    let mut wrong = Vec::new();
    for (folder, root, debt) in CRATES {
        let files = files(&workspace().join(folder), root);
        let circles = circles(&edges(&files));
        let count: usize = circles.iter().map(Vec::len).sum();
        if count != *debt {
            let named = circles
                .iter()
                .map(|circle| circle.iter().map(|place| place.join("::")).collect::<Vec<_>>().join(" "));
            wrong.push(format!("{folder}/{root}: {count} files in circles, {debt} allowed:"));
            wrong.extend(named.map(|circle| format!("  {circle}")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn circles_are_found() {
    let crate_of = |files: &[(&str, &str)]| {
        let place = |name: &str| name.split("::").filter(|it| !it.is_empty()).map(String::from).collect();
        let files = files.iter().map(|(name, text)| (place(name), (*text).to_string())).collect();
        circles(&edges(&files)).len()
    };
    assert_eq!(crate_of(&[("", "mod a; mod b;"), ("a", "use crate::b::X;"), ("b", "fn f() {}")]), 0);
    assert_eq!(crate_of(&[("a", "use crate::b::X;"), ("b", "fn f() { crate::a::g() }")]), 1);
    assert_eq!(
        crate_of(&[("a", "use crate::{b, c};"), ("b", "use super::c;"), ("c", "use super::a::*;")]),
        1
    );
    let tests = "#[cfg(test)] mod tests { use crate::a; } #[cfg(test)] use crate::a;";
    assert_eq!(crate_of(&[("a", "use crate::b::X;"), ("b", tests)]), 0);
    assert_eq!(crate_of(&[("a", "use a::b::X;"), ("a::b", "use super::Y;")]), 0, "a family");
    assert_eq!(crate_of(&[("a", ""), ("a::b", "use super::c;"), ("a::c", "use super::b;")]), 1, "siblings");
    assert_eq!(crate_of(&[("a", "mod m { use super::super::b; }"), ("b", "type T = crate::a::T;")]), 1);
}
