use super::*;

const MODEL: &str = "model.safetensors";

/// Two files whose content depends on the iteration and on `salt`.
fn files(iteration: u64, salt: u8) -> Vec<(&'static str, Vec<u8>)> {
    let weights = (0..300_u64).map(|i| (i * 31 + iteration) as u8 ^ salt).collect();
    vec![(MODEL, weights), ("state.json", format!("{{\"iteration\":{iteration}}}").into_bytes())]
}

fn save_at(folder: &Path, iteration: u64, keep: usize) {
    save(folder, iteration, &files(iteration, 0), keep).unwrap();
}

fn latest_iteration(folder: &Path) -> Option<u64> {
    latest(folder).unwrap().map(|checkpoint| checkpoint.iteration)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_saved_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("checkpoints");
    assert_eq!(latest(&folder).unwrap(), None);
    save_at(&folder, 9, 3);
    save_at(&folder, 1_000_000, 3);
    let checkpoint = latest(&folder).unwrap().unwrap();
    assert_eq!(checkpoint.iteration, 1_000_000);
    for (name, bytes) in files(1_000_000, 0) {
        assert_eq!(checkpoint.file(name).unwrap(), bytes);
    }
    let message = checkpoint.file("optimizer.safetensors").unwrap_err().to_string();
    assert!(message.contains("optimizer.safetensors"), "{message}");
    assert_eq!(names(&folder), ["000009", "1000000"]);
}

#[test]
fn only_the_newest_are_kept_and_other_files_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    for stranger in ["notes", "12", ".000003.bak-1"] {
        fs::create_dir(folder.join(stranger)).unwrap();
    }
    for iteration in [2, 4, 6, 8] {
        save_at(folder, iteration, 2);
    }
    assert_eq!(names(folder), [".000003.bak-1", "000006", "000008", "12", "notes"]);
    save_at(folder, 10, 0);
    assert_eq!(names(folder), [".000003.bak-1", "000006", "000008", "000010", "12", "notes"]);
}

/// Kills the write after every possible number of bytes on the disk: the files in their order, then
/// the manifest. Whatever is left, the previous checkpoint is found, and the next save cleans up.
#[test]
fn a_crash_in_the_middle_of_a_write_leaves_the_previous_checkpoint() {
    let scratch = tempfile::tempdir().unwrap();
    save_at(scratch.path(), 2, 1);
    let written: Vec<(&str, Vec<u8>)> = [MODEL, "state.json", MANIFEST]
        .into_iter()
        .map(|name| (name, fs::read(scratch.path().join("000002").join(name)).unwrap()))
        .collect();
    let total: usize = written.iter().map(|(_, bytes)| bytes.len()).sum();

    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    save_at(folder, 1, 1);
    let partial = folder.join(".000002.tmp-1");
    for cut in 0..=total {
        remove_if_present(&partial).unwrap();
        fs::create_dir(&partial).unwrap();
        let mut left = cut;
        for (name, bytes) in &written {
            fs::write(partial.join(name), &bytes[..left.min(bytes.len())]).unwrap();
            left = left.saturating_sub(bytes.len());
            if left == 0 {
                break;
            }
        }
        // Only the very last byte, the manifest's closing brace, makes it complete.
        let expected = if cut == total { 2 } else { 1 };
        assert_eq!(latest_iteration(folder), Some(expected), "cut at {cut} of {total}");
    }
    save_at(folder, 3, 1);
    assert_eq!(names(folder), ["000003"]);
}

#[test]
fn a_crash_between_the_renames_of_a_replacement_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    save(folder, 5, &files(5, 1), 1).unwrap();
    fs::rename(folder.join("000005"), folder.join(".000005.old-1")).unwrap();
    assert_eq!(latest_iteration(folder), Some(5));
    save(folder, 5, &files(5, 2), 1).unwrap();
    assert_eq!(latest(folder).unwrap().unwrap().file(MODEL).unwrap(), files(5, 2)[0].1);
    assert_eq!(names(folder), ["000005"]);
}

#[test]
fn saving_an_iteration_again_replaces_it_completely() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    save(folder, 7, &[("old-only.bin", vec![1; 9])], 2).unwrap();
    save_at(folder, 7, 2);
    assert_eq!(names(folder), ["000007"]);
    assert_eq!(names(&folder.join("000007")), [MANIFEST, MODEL, "state.json"]);
    let checkpoint = latest(folder).unwrap().unwrap();
    assert_eq!(checkpoint.file(MODEL).unwrap(), files(7, 0)[0].1);
}

/// Damages the newest checkpoint in every way that a disk can; the one before is used.
#[test]
fn a_damaged_checkpoint_is_skipped() {
    type Damage = fn(&Path);
    let flip = |path: PathBuf, at: usize| {
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 0x10;
        fs::write(path, bytes).unwrap();
    };
    let cases: [(&str, Damage); 6] = [
        ("no manifest", |folder| fs::remove_file(folder.join(MANIFEST)).unwrap()),
        ("empty manifest", |folder| fs::write(folder.join(MANIFEST), b"").unwrap()),
        ("no model", |folder| fs::remove_file(folder.join(MODEL)).unwrap()),
        ("cut model", |folder| {
            let file = fs::File::options().write(true).open(folder.join(MODEL)).unwrap();
            file.set_len(299).unwrap();
        }),
        ("grown model", |folder| {
            let mut bytes = fs::read(folder.join(MODEL)).unwrap();
            bytes.push(0);
            fs::write(folder.join(MODEL), bytes).unwrap();
        }),
        ("moved folder", |folder| {
            fs::remove_dir_all(folder).unwrap();
            let parent = folder.parent().unwrap();
            fs::create_dir(folder).unwrap();
            for name in names(&parent.join("000001")) {
                fs::copy(parent.join("000001").join(&name), folder.join(name)).unwrap();
            }
        }),
    ];
    for (what, damage) in cases {
        let root = tempfile::tempdir().unwrap();
        save_at(root.path(), 1, 0);
        save_at(root.path(), 2, 0);
        damage(&root.path().join("000002"));
        assert_eq!(latest_iteration(root.path()), Some(1), "{what}");
    }
    for at in 0..300 {
        let root = tempfile::tempdir().unwrap();
        save_at(root.path(), 1, 0);
        save_at(root.path(), 2, 0);
        flip(root.path().join("000002").join(MODEL), at);
        assert_eq!(latest_iteration(root.path()), Some(1), "byte {at}");
    }
}

#[test]
fn a_damaged_newer_checkpoint_never_costs_the_one_just_saved() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    save_at(folder, 10, 1);
    fs::write(folder.join("000010").join(MODEL), b"spoilt").unwrap();
    save_at(folder, 4, 1);
    save_at(folder, 6, 1);
    assert_eq!(latest_iteration(folder), Some(6));
    assert_eq!(names(folder), ["000006", "000010"]);
    save_at(folder, 10, 1);
    assert_eq!(names(folder), ["000010"]);
    assert_eq!(latest_iteration(folder), Some(10));
}

#[test]
fn if_nothing_is_intact_the_run_does_not_start_over_silently() {
    let root = tempfile::tempdir().unwrap();
    save_at(root.path(), 3, 1);
    fs::remove_file(root.path().join("000003").join(MANIFEST)).unwrap();
    let message = latest(root.path()).unwrap_err().to_string();
    assert!(message.contains("intact"), "{message}");
    // A first save that never finished is not a checkpoint.
    let fresh = tempfile::tempdir().unwrap();
    fs::create_dir(fresh.path().join(".000001.tmp-1")).unwrap();
    assert_eq!(latest(fresh.path()).unwrap(), None);
}

#[test]
fn a_save_that_fails_leaves_the_previous_checkpoints() {
    let root = tempfile::tempdir().unwrap();
    save_at(root.path(), 1, 1);
    let missing_folder = [("no/such/folder.bin", vec![0])];
    let message = save(root.path(), 2, &missing_folder, 1).unwrap_err().to_string();
    assert!(message.contains("folder.bin"), "{message}");
    assert_eq!(latest_iteration(root.path()), Some(1));
}
