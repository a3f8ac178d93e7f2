//! The memory that a read fills and a write is taken from, for as long as a request is under way.

/// Memory for a transfer: one piece or several that follow each other.
///
/// Reading fills vectors up to their capacity and sets their length afterwards; what stood in them
/// is of no interest. Writing takes what is in them.
pub(crate) struct Memory {
    pieces: Pieces,
    /// What the pieces point into, where it is not the user's.
    owner: Owner,
    length: usize,
    /// The pieces as the kernel takes them, while it has them.
    #[cfg(target_os = "linux")]
    vectors: Vec<libc::iovec>,
}

enum Pieces {
    One(Piece),
    Many(Box<[Piece]>),
}

#[derive(Clone, Copy)]
pub(crate) struct Piece {
    base: *mut u8,
    length: usize,
}

enum Owner {
    User,
    One(Vec<u8>),
    Many(Vec<Vec<u8>>),
}

// SAFETY: the pieces point into vectors that go along, or into memory that was lent for as long as
// the transfer lasts, wherever it is made (`Memory::lent`).
unsafe impl Send for Memory {}

/// Pieces handed to the kernel by one call. More would only make the array on the stack bigger.
pub(crate) const PIECES_MAX: usize = 64;

impl Memory {
    /// Memory to be filled, all that the vector has room for.
    pub fn to_fill(mut bytes: Vec<u8>) -> Memory {
        bytes.clear();
        let piece = Piece::of(&mut bytes, Vec::capacity);
        Memory::new(Pieces::One(piece), Owner::One(bytes))
    }

    /// As [`Memory::to_fill`], one vector after the other.
    pub fn to_fill_each(mut vectors: Vec<Vec<u8>>) -> Memory {
        let pieces = vectors.iter_mut().map(|bytes| {
            bytes.clear();
            Piece::of(bytes, Vec::capacity)
        });
        let pieces = Pieces::Many(pieces.collect());
        Memory::new(pieces, Owner::Many(vectors))
    }

    /// Memory to be written from.
    pub fn of(mut bytes: Vec<u8>) -> Memory {
        let piece = Piece::of(&mut bytes, Vec::len);
        Memory::new(Pieces::One(piece), Owner::One(bytes))
    }

    /// As [`Memory::of`], one vector after the other.
    pub fn of_each(mut vectors: Vec<Vec<u8>>) -> Memory {
        let pieces = vectors.iter_mut().map(|bytes| Piece::of(bytes, Vec::len));
        let pieces = Pieces::Many(pieces.collect());
        Memory::new(pieces, Owner::Many(vectors))
    }

    /// Somebody else's memory.
    ///
    /// # Safety
    ///
    /// For as long as this lives, each piece can be read, and written too if it is to be filled, on
    /// whatever thread, and nobody else writes there.
    #[cfg_attr(not(any(feature = "capi", target_os = "linux")), allow(dead_code))]
    pub unsafe fn lent(pieces: impl ExactSizeIterator<Item = (*mut u8, usize)>) -> Memory {
        let mut pieces = pieces.map(|(base, length)| Piece { base, length });
        let pieces = match (pieces.len(), pieces.next()) {
            (1, Some(piece)) => Pieces::One(piece),
            (_, first) => Pieces::Many(first.into_iter().chain(pieces).collect()),
        };
        Memory::new(pieces, Owner::User)
    }

    fn new(pieces: Pieces, owner: Owner) -> Memory {
        let all = match &pieces {
            Pieces::One(piece) => std::slice::from_ref(piece),
            Pieces::Many(pieces) => pieces,
        };
        let lengths = all.iter().map(|piece| piece.length);
        let length = lengths.fold(0, usize::saturating_add);
        Memory {
            pieces,
            owner,
            length,
            #[cfg(target_os = "linux")]
            vectors: Vec::new(),
        }
    }

    fn pieces(&self) -> &[Piece] {
        match &self.pieces {
            Pieces::One(piece) => std::slice::from_ref(piece),
            Pieces::Many(pieces) => pieces,
        }
    }

    /// Bytes in all.
    pub fn length(&self) -> usize {
        self.length
    }

    /// What is behind the first `skip` bytes, if that is one piece for certain.
    #[cfg(target_os = "linux")]
    pub fn only(&self, skip: usize) -> Option<Piece> {
        match self.pieces {
            Pieces::One(piece) => Some(piece.behind(skip)),
            Pieces::Many(_) => None,
        }
    }

    /// The pieces behind the first `skip` bytes, as many as one call takes, in memory that stays until this is asked
    /// again.
    #[cfg(target_os = "linux")]
    #[cfg_attr(not(kolo_uring), allow(dead_code))]
    pub fn vectors(&mut self, skip: usize) -> &[libc::iovec] {
        let mut pieces = [Piece::NONE; PIECES_MAX];
        let count = self.rest(skip, &mut pieces);
        self.vectors.clear();
        let vectors = pieces[..count].iter().map(|piece| piece.to_iovec());
        self.vectors.extend(vectors);
        &self.vectors
    }

    /// The pieces behind the first `skip` bytes, as many as fit into `out`; how many.
    pub fn rest(&self, mut skip: usize, out: &mut [Piece; PIECES_MAX]) -> usize {
        let mut count = 0;
        for piece in self.pieces() {
            let skipped = skip.min(piece.length);
            skip -= skipped;
            if skipped == piece.length {
                continue;
            }
            if count == PIECES_MAX {
                break;
            }
            out[count] = piece.behind(skipped);
            count += 1;
        }
        count
    }

    /// The vector that was to be filled, with the first `filled` bytes of it being so.
    pub fn into_filled(self, filled: usize) -> Vec<u8> {
        let Owner::One(mut bytes) = self.owner else {
            return Vec::new();
        };
        // SAFETY: a system call has written that many bytes from the vector's start on, and was
        // given no more room than its capacity.
        unsafe { bytes.set_len(filled.min(bytes.capacity())) };
        bytes
    }

    /// The vectors that were to be filled, with the first `filled` bytes of them being so.
    pub fn into_each_filled(self, mut filled: usize) -> Vec<Vec<u8>> {
        let Owner::Many(mut vectors) = self.owner else {
            return Vec::new();
        };
        for bytes in &mut vectors {
            let here = filled.min(bytes.capacity());
            // SAFETY: as in `into_filled`: the pieces were filled one after the other.
            unsafe { bytes.set_len(here) };
            filled -= here;
        }
        vectors
    }

    /// The vector that was written from.
    pub fn into_vector(self) -> Vec<u8> {
        match self.owner {
            Owner::One(bytes) => bytes,
            _ => Vec::new(),
        }
    }

    /// The vectors that were written from.
    pub fn into_vectors(self) -> Vec<Vec<u8>> {
        match self.owner {
            Owner::Many(vectors) => vectors,
            _ => Vec::new(),
        }
    }
}

impl Piece {
    pub const NONE: Piece = Piece {
        base: std::ptr::null_mut(),
        length: 0,
    };

    fn behind(self, skip: usize) -> Piece {
        let skip = skip.min(self.length);
        Piece {
            base: self.base.wrapping_add(skip),
            length: self.length - skip,
        }
    }

    fn of(bytes: &mut Vec<u8>, length: fn(&Vec<u8>) -> usize) -> Piece {
        let length = length(bytes);
        // Moving the vector does not move what it points to.
        let base = bytes.as_mut_ptr();
        Piece { base, length }
    }

    #[cfg(unix)]
    pub fn to_iovec(self) -> libc::iovec {
        libc::iovec {
            iov_base: self.base.cast(),
            iov_len: self.length,
        }
    }

    /// The memory, to read into.
    ///
    /// # Safety
    ///
    /// The memory it is of lives, and is not otherwise referred to, for as long as the slice.
    #[cfg(not(unix))]
    pub unsafe fn to_slice<'a>(self) -> &'a mut [u8] {
        // SAFETY: promised by the caller. What stands in it, if it is to be filled, is only written.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(memory: &Memory, skip: usize) -> Vec<usize> {
        let mut out = [Piece::NONE; PIECES_MAX];
        let count = memory.rest(skip, &mut out);
        out[..count].iter().map(|piece| piece.length).collect()
    }

    #[test]
    fn the_rest_is_what_was_not_skipped() {
        let vectors = vec![vec![1; 3], vec![], vec![2; 4], vec![3; 1]];
        let memory = Memory::of_each(vectors);
        assert_eq!(memory.length(), 8);
        assert_eq!(lengths(&memory, 0), [3, 4, 1]);
        assert_eq!(lengths(&memory, 2), [1, 4, 1]);
        assert_eq!(lengths(&memory, 3), [4, 1]);
        assert_eq!(lengths(&memory, 7), [1]);
        assert_eq!(lengths(&memory, 8), []);
        assert_eq!(lengths(&Memory::of_each(vec![vec![0]; 100]), 0).len(), 64);
        assert_eq!(lengths(&Memory::of(Vec::new()), 0), []);
    }

    #[test]
    fn what_was_filled_is_what_a_vector_holds() {
        let memory = Memory::to_fill_each(vec![Vec::with_capacity(4), Vec::with_capacity(4)]);
        let length = memory.length();
        let mut out = [Piece::NONE; PIECES_MAX];
        let count = memory.rest(0, &mut out);
        for piece in &out[..count] {
            // SAFETY: room of the vectors', which live.
            unsafe { piece.base.write_bytes(7, piece.length) };
        }
        let vectors = memory.into_each_filled(length - 1);
        assert!(vectors.iter().flatten().all(|byte| *byte == 7));
        assert_eq!(vectors.iter().map(Vec::len).sum::<usize>(), length - 1);
    }
}
