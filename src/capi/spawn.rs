//! Options from C as a [`Command`]; on systems without child processes, the answer to that.

#[cfg(not(unix))]
pub(super) use other::*;
#[cfg(unix)]
pub(super) use unix::*;

#[cfg(unix)]
mod unix {
    use std::ffi::{c_char, c_int, c_void, CStr, CString, OsStr};
    use std::os::unix::ffi::OsStrExt;

    use super::super::boundary::{id, pointer, slice, Out};
    use super::super::process::*;
    use super::super::stream::adapter;
    use super::super::types::{kolo_loop, kolo_process, kolo_stream};
    use super::super::{poll, sized};
    use crate::error::{Code, Result};
    use crate::event_loop::Loop;
    use crate::process::{self, Command, ExitStatus, Process, Stdio, Ways};
    use crate::sys::spawn::{GROUPS_MAX, LIMITS_MAX};

    /// # Safety
    ///
    /// What the options point to is as the header asks for it.
    pub unsafe fn spawn(
        lp: &kolo_loop,
        options: &kolo_process_options,
        on_exit: kolo_exit_cb,
        user: *mut c_void,
        set_failed_step: fn(c_int),
    ) -> Result<kolo_process> {
        // SAFETY: promised by the caller.
        let (command, outs) = unsafe { command(lp, options)? };
        let spawned = match on_exit {
            None => command.spawn_and_forget(&lp.inner),
            Some(cb) => command.spawn(&lp.inner, move |lp: &Loop, process, ended| {
                let (status, signal) = numbers(ended);
                // SAFETY: the user's function, with what it asked for.
                unsafe { cb(pointer(lp), process.id().to_raw(), status, signal, user) }
            }),
        };
        let child = match spawned {
            Ok(child) => child,
            Err(failed) => {
                set_failed_step(failed.step as c_int);
                return Err(failed.error);
            }
        };
        for (number, out) in outs {
            if let Some(stream) = child.stream(number) {
                out.set(stream.id().to_raw());
            }
        }
        Ok(child.process.id().to_raw())
    }

    /// How a program ended, as C has it.
    fn numbers(ended: ExitStatus) -> (c_int, c_int) {
        match ended {
            ExitStatus::Code(code) => (code, 0),
            ExitStatus::Signal { number, .. } => (128 + number, number),
            ExitStatus::Unknown => (Code::ECHILD.number(), 0),
        }
    }

    type Outs = Vec<(c_int, Out<kolo_stream>)>;

    /// # Safety
    ///
    /// What the options point to is as the header asks for it.
    unsafe fn command(lp: &kolo_loop, options: &kolo_process_options) -> Result<(Command, Outs)> {
        // Before they are read: a number that is wrong would have memory read that is not there.
        if options.group_count > GROUPS_MAX || options.limit_count > LIMITS_MAX {
            return Err(Code::EINVAL.into());
        }
        // SAFETY: promised by the caller, for everything in here.
        let (program, limits, groups) = unsafe {
            let program = text(options.program)?.ok_or(Code::EINVAL)?;
            let limits = slice(options.limits, options.limit_count)?;
            (program, limits, slice(options.groups, options.group_count)?)
        };
        let mut command = Command::new(OsStr::from_bytes(program.to_bytes()))
            .keep_descriptors(options.keep_descriptors != 0)
            .kill_on_close(options.kill_on_close != 0)
            .nice(options.nice)
            .parent_death_signal(options.parent_death_signal);
        // SAFETY: promised by the caller.
        if let Some(texts) = unsafe { texts(options.arguments)? } {
            let mut texts = texts.into_iter();
            let name = texts.next().ok_or(Code::EINVAL)?;
            command = command.name(OsStr::from_bytes(name.to_bytes()));
            command = command.args(texts.map(|text| OsStr::from_bytes(text.to_bytes())));
        }
        // SAFETY: promised by the caller.
        if let Some(texts) = unsafe { texts(options.environment)? } {
            command = command.exact_environment(texts.into_iter().map(CStr::to_owned).collect());
        }
        // SAFETY: promised by the caller.
        if let Some(directory) = unsafe { text(options.directory)? } {
            command = command.directory(OsStr::from_bytes(directory.to_bytes()));
        }
        for limit in limits {
            command = command.limit(limit.resource, limit.soft, limit.hard);
        }
        if !options.groups.is_null() {
            command = command.groups(groups);
        }
        if options.set_user != 0 {
            command = command.user(options.user);
        }
        if options.set_group != 0 {
            command = command.group(options.group);
        }
        if options.set_umask != 0 {
            command = command.umask(options.umask);
        }
        command = group(command, options)?;
        // SAFETY: promised by the caller.
        unsafe { descriptors(lp, command, options) }
    }

    fn group(command: Command, options: &kolo_process_options) -> Result<Command> {
        let session = options.new_session != 0 || options.controlling_terminal != 0;
        Ok(
            match (options.process_group, options.new_group != 0, session) {
                (0, false, false) => command,
                (0, true, false) => command.new_group(),
                (0, false, true) if options.controlling_terminal != 0 => {
                    command.controlling_terminal()
                }
                (0, false, true) => command.new_session(),
                (group @ 1.., false, false) => command.join_group(group),
                _ => return Err(Code::EINVAL.into()),
            },
        )
    }

    /// # Safety
    ///
    /// What the options point to is as the header asks for it.
    unsafe fn descriptors(
        lp: &kolo_loop,
        mut command: Command,
        options: &kolo_process_options,
    ) -> Result<(Command, Outs)> {
        let mut outs = Vec::new();
        if options.stdio_count > crate::sys::spawn::DESCRIPTORS_MAX
            || options.stdio.is_null() && options.stdio_count > 0
        {
            return Err(Code::EINVAL.into());
        }
        let mut at = options.stdio.cast::<u8>();
        let mut size = 0;
        for number in 0..options.stdio_count as c_int {
            // SAFETY: promised by the caller: so many stand there, one behind the other.
            let stdio = unsafe { sized::read(at.cast::<kolo_stdio>())? };
            // An array of one version.
            if number > 0 && stdio.size != size {
                return Err(Code::EINVAL.into());
            }
            size = stdio.size;
            // SAFETY: as above; the end of the last one at most.
            at = unsafe { at.add(size) };
            // SAFETY: promised by the caller.
            if let Some((stdio, out)) = unsafe { descriptor(lp, &stdio, number)? } {
                command = command.with_descriptor(number, stdio);
                outs.extend(out.map(|out| (number, out)));
            }
        }
        Ok((command, outs))
    }

    /// # Safety
    ///
    /// What it points to is as the header asks for it.
    unsafe fn descriptor(
        lp: &kolo_loop,
        stdio: &kolo_stdio,
        number: c_int,
    ) -> Result<Option<(Stdio, Option<Out<kolo_stream>>)>> {
        use kolo_stdio_type::*;
        const INHERIT: c_int = KOLO_STDIO_INHERIT as c_int;
        const NULL: c_int = KOLO_STDIO_NULL as c_int;
        const DESCRIPTOR: c_int = KOLO_STDIO_DESCRIPTOR as c_int;
        const FILE: c_int = KOLO_STDIO_FILE as c_int;
        const NONE: c_int = KOLO_STDIO_NONE as c_int;
        let ways = match stdio.r#type {
            INHERIT => return Ok(Some((Stdio::inherit(), None))),
            NULL => return Ok(Some((Stdio::null(), None))),
            DESCRIPTOR => {
                let descriptor = poll::descriptor(stdio.descriptor)?;
                return Ok(Some((Stdio::borrowed(descriptor), None)));
            }
            FILE => {
                // SAFETY: promised by the caller.
                let path = unsafe { text(stdio.path)?.ok_or(Code::EINVAL)? };
                let mode = stdio.mode as libc::mode_t;
                let file = Stdio::file(CString::from(path), stdio.open_flags, mode);
                return Ok(Some((file, None)));
            }
            NONE if number > libc::STDERR_FILENO => return Ok(None),
            kind if kind == KOLO_STDIO_CHILD_READS as c_int => Ways::ChildReads,
            kind if kind == KOLO_STDIO_CHILD_WRITES as c_int => Ways::ChildWrites,
            kind if kind == KOLO_STDIO_BOTH_WAYS as c_int => Ways::Both,
            _ => return Err(Code::EINVAL.into()),
        };
        // SAFETY: promised by the caller.
        let out = unsafe { Out::new(stdio.out_stream)? };
        // SAFETY: promised by the caller.
        let handler = unsafe { adapter(lp, stdio.handler, stdio.user)? };
        Ok(Some((Stdio::pipe(ways, handler), Some(out))))
    }

    /// # Safety
    ///
    /// `at` is NULL, or a text that ends with NUL and lives as long as the call.
    unsafe fn text<'a>(at: *const c_char) -> Result<Option<&'a CStr>> {
        // SAFETY: promised by the caller.
        Ok((!at.is_null()).then(|| unsafe { CStr::from_ptr(at) }))
    }

    /// # Safety
    ///
    /// `at` is NULL, or an array of such texts that ends with a NULL.
    unsafe fn texts<'a>(mut at: *const *const c_char) -> Result<Option<Vec<&'a CStr>>> {
        if at.is_null() {
            return Ok(None);
        }
        let mut found = Vec::new();
        // SAFETY: promised by the caller: it goes on until a NULL.
        while let Some(text) = unsafe { text(at.read())? } {
            found.push(text);
            // SAFETY: as above.
            at = unsafe { at.add(1) };
        }
        Ok(Some(found))
    }

    fn process(handle: kolo_process) -> Result<Process> {
        Ok(Process::from_id(id(handle)?))
    }

    pub fn pid(lp: &kolo_loop, handle: kolo_process) -> Result<c_int> {
        process(handle)?.pid(&lp.inner)
    }

    pub fn kill_process(lp: &kolo_loop, handle: kolo_process, signal: c_int) -> Result<()> {
        process(handle)?.kill(&lp.inner, signal)
    }

    pub fn kill_group(lp: &kolo_loop, handle: kolo_process, signal: c_int) -> Result<()> {
        process(handle)?.kill_group(&lp.inner, signal)
    }

    pub fn kill_any(pid: c_int, signal: c_int) -> Result<()> {
        process::kill(pid, signal)
    }

    pub fn usage(lp: &kolo_loop, handle: kolo_process) -> Result<kolo_resource_usage> {
        let usage = process(handle)?.usage(&lp.inner)?;
        Ok(kolo_resource_usage {
            size: size_of::<kolo_resource_usage>(),
            user_ns: usage.user.as_nanos() as u64,
            system_ns: usage.system.as_nanos() as u64,
            resident_max_bytes: usage.resident_max,
            minor_faults: usage.minor_faults,
            major_faults: usage.major_faults,
            block_reads: usage.block_reads,
            block_writes: usage.block_writes,
            voluntary_switches: usage.voluntary_switches,
            involuntary_switches: usage.involuntary_switches,
        })
    }
}

#[cfg(not(unix))]
mod other {
    use std::ffi::{c_int, c_void};

    use super::super::process::*;
    use super::super::types::{kolo_loop, kolo_process};
    use crate::error::{Code, Result};

    /// # Safety
    ///
    /// None is needed.
    pub unsafe fn spawn(
        _lp: &kolo_loop,
        _options: &kolo_process_options,
        _on_exit: kolo_exit_cb,
        _user: *mut c_void,
        _set_failed_step: fn(c_int),
    ) -> Result<kolo_process> {
        Err(Code::ENOTSUP.into())
    }

    pub fn pid(_lp: &kolo_loop, _handle: kolo_process) -> Result<c_int> {
        Err(Code::ENOTSUP.into())
    }

    pub fn kill_process(_lp: &kolo_loop, _handle: kolo_process, _signal: c_int) -> Result<()> {
        Err(Code::ENOTSUP.into())
    }

    pub fn kill_group(_lp: &kolo_loop, _handle: kolo_process, _signal: c_int) -> Result<()> {
        Err(Code::ENOTSUP.into())
    }

    pub fn kill_any(_pid: c_int, _signal: c_int) -> Result<()> {
        Err(Code::ENOTSUP.into())
    }

    pub fn usage(_lp: &kolo_loop, _handle: kolo_process) -> Result<kolo_resource_usage> {
        Err(Code::ENOTSUP.into())
    }
}
