//! What a descriptor is that somebody hands in, such as a standard stream.

use crate::error::Result;
use crate::RawSocket;

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DescriptorKind {
    /// Something else: a raw socket, an event descriptor.
    Unknown,
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A terminal.
    Tty,
    /// A pipe, named or not.
    Pipe,
    /// A TCP connection, or a socket that is to become one.
    Tcp,
    /// A socket that listens for TCP connections.
    TcpListener,
    /// A UDP socket.
    Udp,
    /// A Unix-domain stream socket.
    Local,
    /// A socket that listens for Unix-domain streams.
    LocalListener,
    /// A Unix-domain datagram socket.
    LocalDatagram,
    /// A device that is no terminal, such as `/dev/null` or a disk.
    Device,
}

/// What a descriptor is, so that the right thing can be opened on it: a program's standard streams
/// may be terminals, pipes, files or sockets.
///
/// Errors: [`Code::EBADF`](crate::Code::EBADF) for one that is not open;
/// [`Code::ENOTSUP`](crate::Code::ENOTSUP) on Windows.
pub fn descriptor_kind(descriptor: RawSocket) -> Result<DescriptorKind> {
    #[cfg(unix)]
    return unix::kind(descriptor);
    #[cfg(not(unix))]
    {
        let _ = descriptor;
        Err(crate::error::Code::ENOTSUP.into())
    }
}

#[cfg(unix)]
mod unix {
    use socket2::{Domain, SockRef, Type};

    use super::*;
    use crate::error::Code;
    use crate::sys;

    pub(super) fn kind(descriptor: RawSocket) -> Result<DescriptorKind> {
        if descriptor < 0 {
            return Err(Code::EBADF.into());
        }
        Ok(match sys::machine::file_type(descriptor)? {
            libc::S_IFREG => DescriptorKind::File,
            libc::S_IFDIR => DescriptorKind::Directory,
            libc::S_IFIFO => DescriptorKind::Pipe,
            libc::S_IFCHR if sys::machine::is_terminal(descriptor) => DescriptorKind::Tty,
            libc::S_IFCHR | libc::S_IFBLK => DescriptorKind::Device,
            libc::S_IFSOCK => socket(descriptor)?,
            _ => DescriptorKind::Unknown,
        })
    }

    fn socket(descriptor: RawSocket) -> Result<DescriptorKind> {
        let borrowed = sys::borrow(descriptor);
        let socket = SockRef::from(&borrowed);
        let domain = socket.local_addr()?.domain();
        let listens = sys::machine::listens(descriptor);
        let internet = domain == Domain::IPV4 || domain == Domain::IPV6;
        Ok(match socket.r#type()? {
            Type::STREAM if internet && listens => DescriptorKind::TcpListener,
            Type::STREAM if internet => DescriptorKind::Tcp,
            Type::DGRAM if internet => DescriptorKind::Udp,
            Type::STREAM if domain == Domain::UNIX && listens => DescriptorKind::LocalListener,
            Type::STREAM if domain == Domain::UNIX => DescriptorKind::Local,
            Type::DGRAM if domain == Domain::UNIX => DescriptorKind::LocalDatagram,
            _ => DescriptorKind::Unknown,
        })
    }
}
