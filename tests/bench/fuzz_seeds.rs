//! Writes the seeds of every fuzz target into the corpus that `cargo fuzz` starts from.

use sluice_tests::fuzz::TARGETS;
use std::io;
use std::path::PathBuf;

fn main() -> io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other(
            "which folder? tests/fuzz/corpus is where cargo fuzz looks",
        ));
    };
    for target in TARGETS {
        let corpus = folder.join(target.name);
        std::fs::create_dir_all(&corpus)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(corpus.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
