//! The files, and when they are written.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Event, Notes, Session, Track};

/// `text` within the quotes of a JSON string.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c == '"' || c == '\\' || c.is_control()) {
        return text.into();
    }
    let escaped = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    text.chars().map(escaped).collect::<String>().into()
}

/// Nanoseconds as the microseconds of a trace.
fn microseconds(ns: u64) -> String {
    format!("{}.{:03}", ns / 1000, ns % 1000)
}

fn write_event(to: &mut impl Write, event: &Event) -> std::io::Result<()> {
    let Event { device, track, subject, start_ns, duration_ns } = event;
    let tid = if *track == Track::Host { 1 } else { 2 };
    write!(
        to,
        ",\n{{\"ph\":\"X\",\"pid\":{},\"tid\":{tid},\"name\":\"{}\",\"ts\":{},\"dur\":{}",
        device + 1,
        escape(subject.kernel),
        microseconds(*start_ns),
        microseconds(*duration_ns)
    )?;
    if *track == Track::Device {
        let operations = subject.operations;
        write!(
            to,
            ",\"cat\":\"kernel\",\"args\":{{\"op\":\"{}\",\"kernel\":\"{}\",\"bytes\":{},\"flops\":{operations}",
            escape(subject.op),
            escape(subject.kernel),
            subject.bytes
        )?;
        if subject.workgroups != [0; 3] {
            let [x, y, z] = subject.workgroups;
            write!(to, ",\"workgroups\":[{x},{y},{z}]")?;
        }
        write!(to, "}}")?;
    }
    write!(to, "}}")
}

impl Notes {
    /// The trace, in Chrome's format: a process per device, in it a line for the host and one for the device.
    pub(super) fn write_trace(&self, to: &mut impl Write) -> std::io::Result<()> {
        write!(
            to,
            "{{\"displayTimeUnit\":\"ms\",\"otherData\":{{\"events_left_out\":{},\"times_not_arrived\":{}}},\n\"traceEvents\":[",
            self.left_out,
            self.awaited()
        )?;
        for (index, noted) in self.devices.iter().enumerate() {
            let (comma, pid) = (if index > 0 { ",\n" } else { "\n" }, index + 1);
            let name = |kind: &str, tid: u32, name: &str| {
                let name = escape(name);
                format!(
                    "{{\"ph\":\"M\",\"pid\":{pid},\"tid\":{tid},\"name\":\"{kind}\",\"args\":{{\"name\":\"{name}\"}}}}"
                )
            };
            let names = [
                name("process_name", 0, &noted.name),
                name("thread_name", 1, "host"),
                name("thread_name", 2, "device"),
            ];
            write!(to, "{comma}{}", names.join(",\n"))?;
        }
        self.events.iter().try_for_each(|event| write_event(to, event))?;
        writeln!(to, "\n]}}")
    }
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(ending);
    name.into()
}

/// Writes a file whole or not at all.
fn replace(
    file: &Path,
    write: impl FnOnce(&mut BufWriter<std::fs::File>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let temporary = beside(file, &format!(".{}.tmp", std::process::id()));
    let outcome = std::fs::File::create(&temporary).and_then(|created| {
        let mut to = BufWriter::new(created);
        write(&mut to)?;
        to.flush()?;
        std::fs::rename(&temporary, file)
    });
    if outcome.is_err() {
        // It may never have been there.
        let _ = std::fs::remove_file(&temporary);
    }
    outcome
}

impl Session {
    /// Writes all files; whether that went well.
    pub(super) fn write(&self) -> bool {
        let notes = self.notes();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let outcome = replace(&self.file, |to| notes.write_trace(to))
            .and_then(|()| replace(&beside(&self.file, ".txt"), |to| to.write_all(notes.table().as_bytes())))
            .and_then(|()| {
                replace(&beside(&self.file, ".table.json"), |to| to.write_all(notes.table_json(now).as_bytes()))
            });
        if let Err(error) = &outcome {
            tracing::warn!(file = %self.file.display(), %error, "the profile was not written");
        }
        outcome.is_ok()
    }
}

extern "C" fn at_exit() {
    // It must not unwind into C; a profile is nothing to abort a program for. Devices are left alone: their drivers may be gone.
    let _ = std::panic::catch_unwind(|| super::session().map(Session::write));
}

/// Has the files written when the process ends normally. Devices may be static, and are never dropped then.
pub(super) fn write_at_exit() {
    unsafe extern "C" {
        fn atexit(callback: extern "C" fn()) -> std::ffi::c_int;
    }
    // SAFETY: C's own function, which the standard library links; the callback is a function, so it outlives everything.
    if unsafe { atexit(at_exit) } != 0 {
        tracing::warn!("the profile is only written where the program asks for it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(escape("plain"), "plain");
        assert_eq!(escape("a\"b\\c\n"), "a\\\"b\\\\c\\u000a");
        assert_eq!(microseconds(1_002_003), "1002.003");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_no_end() {
        let file = std::env::temp_dir().join("everstep-no-such-folder").join("trace.json");
        assert!(replace(&file, |_| Ok(())).is_err());
    }
}
