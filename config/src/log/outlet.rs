//! Lines on their way out, by a thread that may wait for whoever reads them.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// A way out that keeps nobody waiting who has something to tell.
///
/// A pipe that nobody reads is full after 64 KiB, and whoever writes to it then stands still. Here
/// that is a thread with nothing else to do; meanwhile lines wait up to a bound, and are lost and
/// counted beyond it.
pub struct Outlet {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Something waits to be written, or all has been.
    changed: Condvar,
    /// How long the first line waits for others.
    moment: Duration,
    /// How many bytes may wait.
    most: usize,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines that were lost and not told of yet.
    lost: u64,
    is_writing: bool,
    has_ended: bool,
}

impl Outlet {
    /// Writes to `out`, and each time waits a `moment` for lines to be written together.
    pub fn to(out: impl Write + Send + 'static, moment: Duration) -> io::Result<Self> {
        Self::bounded(out, moment, MOST)
    }

    fn bounded(
        out: impl Write + Send + 'static,
        moment: Duration,
        most: usize,
    ) -> io::Result<Self> {
        let (state, changed) = Default::default();
        let shared = Arc::new(Shared { state, changed, moment, most });
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_to(out))?;
        Ok(Self { shared })
    }

    /// Adds whole lines. Returns how many of them are lost for want of room.
    pub fn append(&self, lines: &[u8]) -> u64 {
        let mut state = self.shared.state();
        if state.waiting.len().saturating_add(lines.len()) > self.shared.most {
            let lost = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            state.lost = state.lost.saturating_add(lost);
            return lost;
        }
        let before = state.waiting.len();
        state.waiting.extend_from_slice(lines);
        // The first line wakes the writer; it then waits for others, but not for too many.
        if before == 0 || (before < MANY && state.waiting.len() >= MANY) {
            self.shared.changed.notify_all();
        }
        0
    }

    /// Lets what waits be written, but not for ever: nobody may be reading.
    pub fn let_out(&self) {
        self.shared.changed.notify_all();
        let is_unwritten = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        let state = self.shared.state();
        drop(self.shared.changed.wait_timeout_while(state, FAREWELL, is_unwritten));
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.shared.state().has_ended = true;
        self.let_out();
    }
}

impl Write for &Outlet {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.append(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn write_to(&self, mut out: impl Write) {
        while let Some((lines, lost)) = self.gather() {
            // Who closed our output does not want to know.
            let _ = out.write_all(&lines).and_then(|()| out.flush());
            let mut state = self.state();
            state.is_writing = false;
            self.changed.notify_all();
            drop(state);
            if lost > 0 {
                tracing::warn!(lost, "lines of the log are lost: nobody read them");
            }
        }
    }

    /// What waits, once something does, and how many lines were lost meanwhile. `None` at the end.
    fn gather(&self) -> Option<(Vec<u8>, u64)> {
        let is_idle = |state: &mut State| state.waiting.is_empty() && !state.has_ended;
        let state = self.changed.wait_while(self.state(), is_idle);
        let is_brief = |state: &mut State| state.waiting.len() < MANY && !state.has_ended;
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, self.moment, is_brief);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.waiting.is_empty() {
            return None;
        }
        state.is_writing = true;
        Some((mem::take(&mut state.waiting), mem::take(&mut state.lost)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many bytes do not wait for more.
const MANY: usize = 32 * 1024;

/// How many bytes may wait: some thousand lines.
const MOST: usize = 4 * 1024 * 1024;

/// How long the last lines may take.
const FAREWELL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, Sender, channel},
        time::Instant,
    };

    use super::*;

    /// A pipe that lets each write through when it is told to.
    struct Pipe {
        reader: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.reader.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.written.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_who_does_not_come() {
        let (read, written, outlet) = outlet(Duration::ZERO, 100);
        let line = [b"0123456789".repeat(3).as_slice(), b"\n"].concat();

        assert_eq!(outlet.append(&line), 0);
        read_until_taken(&outlet);
        let lost: u64 = (0..10).map(|_| outlet.append(&line)).sum();
        assert_eq!(lost, 7, "three fit, and all of them whole");

        for _ in 0..2 {
            read.send(()).unwrap();
        }
        assert_eq!(written.recv().unwrap(), line);
        assert_eq!(written.recv().unwrap(), line.repeat(3));
        assert_eq!(outlet.append(&line), 0, "there is room again");
        read.send(()).unwrap();
        drop(outlet);
        assert_eq!(written.recv().unwrap(), line, "what waits at the end is written");
    }

    #[test]
    fn an_end_does_not_wait_for_ever() {
        let (_read, _written, outlet) = outlet(Duration::ZERO, 100);
        outlet.append(b"a\n");

        let began = Instant::now();
        drop(outlet);

        assert!(began.elapsed() < 10 * FAREWELL);
    }

    #[test]
    fn lines_wait_for_each_other() {
        let (read, written, outlet) = outlet(Duration::from_millis(100), MOST);

        outlet.append(b"a\n");
        outlet.append(b"b\n");
        read.send(()).unwrap();
        assert_eq!(written.recv().unwrap(), b"a\nb\n");

        read.send(()).unwrap();
        outlet.append(&vec![b'\n'; MANY]);
        assert_eq!(written.recv().unwrap().len(), MANY, "but not for too many");
    }

    fn outlet(moment: Duration, most: usize) -> (Sender<()>, Receiver<Vec<u8>>, Outlet) {
        let ((read, reader), (written, lines)) = (channel(), channel());
        let outlet = Outlet::bounded(Pipe { reader, written }, moment, most).unwrap();
        (read, lines, outlet)
    }

    /// Waits until the writer stands before its reader.
    fn read_until_taken(outlet: &Outlet) {
        while !outlet.shared.state().is_writing {
            thread::yield_now();
        }
    }
}
