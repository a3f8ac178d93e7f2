//! The wheel's queue entries and where they lie: unordered lists of fixed-size chunks, and the pool
//! chunks come from.

use std::mem;

/// A promise to look at a node no later than `deadline`.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) deadline: u64,
    pub(super) node: u32,
}

/// Entries per chunk. With its header a chunk is one KiB: large enough that linking and allocating
/// cost little per entry, small enough that the partly filled chunk of each occupied slot wastes
/// little.
const CHUNK_ENTRIES: usize = 84;

/// Chunks that the pool keeps even when none is in use, so that a loop with few timers does not
/// allocate per timer.
pub(super) const SPARE_CHUNKS_MIN: usize = 16;

/// A contiguous run of entries, in two arrays since a struct of 12 bytes would be padded to 16.
pub(super) struct Chunk {
    next: Option<Box<Chunk>>,
    len: usize,
    deadlines: [u64; CHUNK_ENTRIES],
    nodes: [u32; CHUNK_ENTRIES],
}

const _: () = assert!(mem::size_of::<Chunk>() == 1024);

impl Chunk {
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let deadlines = &self.deadlines[..self.len];
        let nodes = &self.nodes[..self.len];
        deadlines
            .iter()
            .zip(nodes)
            .map(|(&deadline, &node)| Entry { deadline, node })
    }
}

/// An unordered list of entries that knows their earliest deadline.
///
/// Only the first chunk is partly filled. Walking the list touches memory in runs of a chunk, where
/// a list linked through the nodes would miss the cache at every step.
pub(super) struct EntryList {
    head: Option<Box<Chunk>>,
    deadline_min: u64,
}

impl EntryList {
    pub(super) const EMPTY: EntryList = EntryList {
        head: None,
        deadline_min: u64::MAX,
    };

    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// The earliest deadline of all entries, stale ones included; `u64::MAX` when empty.
    pub(super) fn deadline_min(&self) -> u64 {
        self.deadline_min
    }

    #[inline]
    pub(super) fn push(&mut self, entry: Entry, pool: &mut ChunkPool) {
        if !self.push_within(entry) {
            self.push_chunk(entry, pool);
        }
    }

    /// Adds an entry if that takes no new chunk; whether it did.
    #[inline(always)]
    pub(super) fn push_within(&mut self, entry: Entry) -> bool {
        let Some(chunk) = &mut self.head else {
            return false;
        };
        let len = chunk.len;
        if len >= CHUNK_ENTRIES {
            return false;
        }
        chunk.deadlines[len] = entry.deadline;
        chunk.nodes[len] = entry.node;
        chunk.len = len + 1;
        self.deadline_min = self.deadline_min.min(entry.deadline);
        true
    }

    #[inline(never)]
    fn push_chunk(&mut self, entry: Entry, pool: &mut ChunkPool) {
        self.deadline_min = self.deadline_min.min(entry.deadline);
        let mut chunk = pool.get();
        chunk.deadlines[0] = entry.deadline;
        chunk.nodes[0] = entry.node;
        chunk.len = 1;
        chunk.next = self.head.take();
        self.head = Some(chunk);
    }

    /// Leaves this list empty and gives its contents.
    pub(super) fn take(&mut self) -> EntryList {
        mem::replace(self, EntryList::EMPTY)
    }

    /// Unlinks the first chunk. The caller reads it and hands it back to the pool; `deadline_min`
    /// is left as it was.
    pub(super) fn pop_chunk(&mut self) -> Option<Box<Chunk>> {
        let mut chunk = self.head.take()?;
        self.head = chunk.next.take();
        Some(chunk)
    }

    #[cfg(test)]
    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        std::iter::successors(self.head.as_deref(), |chunk| chunk.next.as_deref())
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        self.chunks().flat_map(Chunk::entries)
    }

    #[cfg(test)]
    pub(super) fn chunk_count(&self) -> usize {
        self.chunks().count()
    }
}

impl Drop for EntryList {
    /// Chunk by chunk: the derived drop would recurse once per chunk, and overflow the stack on a
    /// long list.
    fn drop(&mut self) {
        while self.pop_chunk().is_some() {}
    }
}

/// Empty chunks kept for reuse, never more than are in use plus [`SPARE_CHUNKS_MIN`]; the rest go
/// back to the allocator.
pub(super) struct ChunkPool {
    spare: EntryList,
    spare_count: usize,
    used_count: usize,
}

impl ChunkPool {
    pub(super) const fn new() -> ChunkPool {
        ChunkPool {
            spare: EntryList::EMPTY,
            spare_count: 0,
            used_count: 0,
        }
    }

    fn get(&mut self) -> Box<Chunk> {
        self.used_count += 1;
        match self.spare.pop_chunk() {
            Some(chunk) => {
                self.spare_count -= 1;
                chunk
            }
            None => Box::new(Chunk {
                next: None,
                len: 0,
                deadlines: [0; CHUNK_ENTRIES],
                nodes: [0; CHUNK_ENTRIES],
            }),
        }
    }

    pub(super) fn put(&mut self, mut chunk: Box<Chunk>) {
        debug_assert!(chunk.next.is_none());
        self.used_count -= 1;
        chunk.len = 0;
        chunk.next = self.spare.head.take();
        self.spare.head = Some(chunk);
        self.spare_count += 1;
        while self.spare_count > self.used_count + SPARE_CHUNKS_MIN {
            drop(self.spare.pop_chunk());
            self.spare_count -= 1;
        }
    }

    /// Chunks in use and spare.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.used_count, self.spare_count)
    }
}
