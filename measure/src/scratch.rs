//! The directory of one run: everything it writes is in it, and it goes at the end, also after an error or a signal.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use common::env::Env;

/// See the module's text.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// The directory around it, when this run made that too.
    made: Option<PathBuf>,
}

impl Scratch {
    /// A new directory inside `dir`, which is made when it is missing.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(env: &Env, dir: &Path) -> io::Result<Self> {
        let made = !dir.exists();
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let path = dir.join(format!("run-{:016x}", env.random_u64()));
        fs::create_dir(&path)?;
        Ok(Self {
            path,
            made: made.then_some(dir),
        })
    }

    /// Where it is; absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it; whatever uses the files must have ended.
    ///
    /// # Errors
    /// What could not be removed; it stays.
    pub fn close(mut self) -> io::Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> io::Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        fs::remove_dir_all(&self.path)?;
        if let Some(dir) = self.made.take() {
            // Somebody else may have put something there meanwhile.
            drop(fs::remove_dir(dir));
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After an error there is another thing to report; `close` tells.
        drop(self.remove());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_but_what_others_put_there() {
        let env = Env::real();
        let outer = std::env::temp_dir().join(format!("penstock-scratch-{:x}", env.random_u64()));
        let dir = outer.join("deep");
        let scratch = Scratch::new(&env, &dir).unwrap();
        fs::write(scratch.path().join("x"), "y").unwrap();
        scratch.close().unwrap();
        assert!(!dir.exists());
        let scratch = Scratch::new(&env, &dir).unwrap();
        fs::write(dir.join("other"), "y").unwrap();
        drop(scratch);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(&outer).unwrap();
    }
}
