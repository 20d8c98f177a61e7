//! Opens an index folder in which some bytes were changed. It must be refused, or searched without a crash. Checksums
//! refuse nearly all changes, so half of the folders have none, as in version 3: then the changes reach the search.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use agentdistill::retrieval::{Bm25Builder, Bm25Index, BuildOptions, Parameters, Passage};
use libfuzzer_sys::fuzz_target;

/// The folder, and its files with their contents.
static INDEX: LazyLock<(PathBuf, Vec<(PathBuf, Vec<u8>)>)> = LazyLock::new(|| {
    // libfuzzer-sys aborts in its hook. Panics that the index catches are allowed; it still aborts on all others.
    std::panic::set_hook(Box::new(|_| ()));
    let folder = std::env::temp_dir().join(format!("fuzz-index-{}", std::process::id()));
    let mut builder = Bm25Builder::new(&folder, BuildOptions::default()).unwrap();
    for number in 0..300 {
        let text = format!("passage {number} about thing{} and thing{}", number % 7, number % 31);
        builder.add(Passage { id: number.to_string(), title: "title".into(), text, score: 0.0 }).unwrap();
    }
    builder.finish().unwrap();
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let files = files.into_iter().filter(|file| file.is_file());
    (folder, files.map(|file| (file.clone(), fs::read(&file).unwrap())).collect())
});

/// The metadata of an index of version 3, which has no checksums.
const WITHOUT_CHECKSUMS: &str =
    r#"{"version": 3, "documents": 300, "skipped": 0, "language": "english", "title_weight": 1}"#;

// The first byte selects the file, and the second whether it is truncated, and whether there are checksums. Every five further bytes are a change:
// where, and to what.
fuzz_target!(|bytes: &[u8]| {
    let [file, cut, changes @ ..] = bytes else { return };
    let (folder, files) = &*INDEX;
    let (path, content) = &files[usize::from(*file) % files.len()];
    let old = *cut & 64 == 64 && path.file_name() != Some("agentdistill.json".as_ref());
    let metadata = folder.join("agentdistill.json");
    if old {
        fs::write(&metadata, WITHOUT_CHECKSUMS).unwrap();
    }
    let mut changed = content.clone();
    for change in changes.as_chunks::<5>().0 {
        let place = u32::from_le_bytes([change[0], change[1], change[2], change[3]]) as usize % changed.len().max(1);
        if let Some(byte) = changed.get_mut(place) {
            *byte = change[4];
        }
    }
    if *cut >= 128 {
        changed.truncate(changed.len() * usize::from(*cut % 64) / 64);
    }
    fs::write(path, &changed).unwrap();
    if let Ok(index) = Bm25Index::open(folder, Parameters::default()) {
        let checked = index.check().is_ok();
        assert!(old || !checked || is_same(&changed, content), "{} is damaged, and no checksum says so", path.display());
        for query in ["passage", "thing3 thing5", "title about", "absent"] {
            let _ = index.search(query, 5);
        }
    } else {
        assert!(changed != *content, "an undamaged index is refused");
    }
    fs::write(path, content).unwrap();
    if old {
        let (_, current) = files.iter().find(|(path, _)| *path == metadata).unwrap();
        fs::write(&metadata, current).unwrap();
    }
});

/// Returns whether the content is the same, or JSON that differs only in white space, which checksums of metadata ignore.
fn is_same(changed: &[u8], content: &[u8]) -> bool {
    let json = |bytes| serde_json::from_slice::<serde_json::Value>(bytes);
    changed == content || json(changed).is_ok_and(|changed| json(content).is_ok_and(|content| changed == content))
}
