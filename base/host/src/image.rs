//! The running program's own file in memory.

use rustix::mm::Advice;

/// Lets the pages of our code and constants go, as if none of them had been used yet: those that are
/// used from now on come back by themselves, from memory. Reading a config and starting up needs a
/// few megabytes of the program that serving never looks at again.
pub fn forget_what_was_used() {
    let page = rustix::param::page_size();
    for (start, length) in unwritten_segments() {
        let first = start.next_multiple_of(page);
        let length = (start + length).saturating_sub(first) / page * page;
        if length == 0 {
            continue;
        }
        let start = std::ptr::with_exposed_provenance_mut(first);
        // SAFETY: the range lies in a segment of this program's file that is mapped privately and was
        // never written to, since it is not writable and the linker leaves no relocations in such:
        // whoever reads or executes a page of it finds the same bytes, loaded again from the file.
        #[allow(unsafe_code)]
        let advised = unsafe { rustix::mm::madvise(start, length, Advice::LinuxDontNeed) };
        // It is advice: where it cannot be taken, the pages stay.
        advised.unwrap_or_default();
    }
}

/// Address and length of what was loaded of this program and may not be written.
fn unwritten_segments() -> Vec<(usize, usize)> {
    /// Called for each object that is loaded; the first one is the program itself.
    ///
    /// # Safety
    /// `info` and `data` are those of the call below.
    #[allow(unsafe_code)]
    unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: libc::size_t, data: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the loader passes a valid description, and `data` is the vector that was given to it.
        let (info, segments) = unsafe { (&*info, &mut *data.cast::<Vec<(usize, usize)>>()) };
        // SAFETY: so many headers are there, for as long as the object is loaded.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let unwritten = |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
        for header in headers.iter().filter(unwritten) {
            segments.push(((info.dlpi_addr + header.p_vaddr) as usize, header.p_memsz as usize));
        }
        1
    }

    let mut segments: Vec<(usize, usize)> = Vec::new();
    // SAFETY: the callback keeps to what it is given, and the vector outlives the call.
    #[allow(unsafe_code)]
    unsafe {
        libc::dl_iterate_phdr(Some(note), (&raw mut segments).cast());
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than the kernel maps around a page that is touched, on either side of the middle.
    static CONSTANT: [u8; 256 * 1024] = [7; 256 * 1024];

    /// Whether the page at this address is mapped now (proc_pid_pagemap(5)).
    fn is_present(address: usize) -> bool {
        use std::os::unix::fs::FileExt;
        let mut entry = [0; 8];
        let place = address / rustix::param::page_size() * entry.len();
        std::fs::File::open("/proc/self/pagemap").unwrap().read_exact_at(&mut entry, place as u64).unwrap();
        u64::from_ne_bytes(entry) >> 63 == 1
    }

    #[test]
    fn code_and_constants_go_and_come_back() {
        let segments = unwritten_segments();
        let holds = |address: usize| segments.iter().any(|&(start, length)| (start..start + length).contains(&address));
        assert!(holds(forget_what_was_used as fn() as usize), "code: {segments:x?}");
        let middle = &CONSTANT[CONSTANT.len() / 2];
        let address = (&raw const *middle) as usize;
        assert!(holds(address), "constants: {segments:x?}");
        static mut VARIABLE: u32 = 1;
        assert!(!holds((&raw const VARIABLE) as usize), "what is written stays: {segments:x?}");
        assert_eq!(*std::hint::black_box(middle), 7);
        assert!(is_present(address));
        forget_what_was_used();
        assert!(!is_present(address), "it is let go");
        assert_eq!(*std::hint::black_box(middle), 7, "and comes back");
        assert!(is_present(address));
    }
}
