//! The canonical ABI, as far as `theater:simple` needs it, on a 32-bit memory with UTF-8 strings.
//!
//! Who owns what: memory that the host writes (parameters of an export, results of an import) comes from `reallocate`
//! and belongs to the guest from then on; what the guest passes to an import is only lent for the call. The text of an
//! error that an export returns stays until `post_return`.

use crate::Result;
use std::alloc::{alloc, handle_alloc_error, realloc, Layout};
use std::mem::{ManuallyDrop, MaybeUninit};

/// A string or a list, as two words in memory.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Slice {
    pub ptr: *mut u8,
    pub len: usize,
}

impl Slice {
    /// The bytes, owned.
    ///
    /// # Safety
    /// The host wrote it, and nobody has taken it before.
    pub unsafe fn into_bytes(self) -> Vec<u8> {
        bytes(self.ptr, self.len)
    }

    /// The text, owned.
    ///
    /// # Safety
    /// As for `into_bytes`, and it is a string.
    pub unsafe fn into_string(self) -> String {
        string(self.ptr, self.len)
    }
}

/// `result<_, string>`, and `result` of a string or a list.
#[repr(C)]
pub struct Outcome {
    pub failed: u8,
    pub value: Slice,
}

/// `result<u64, string>`.
#[repr(C)]
pub struct OutcomeU64 {
    failed: u8,
    value: U64OrError,
}

#[repr(C)]
union U64OrError {
    number: u64,
    error: Slice,
}

/// `result<bool, string>`.
#[repr(C)]
pub struct OutcomeBool {
    failed: u8,
    value: BoolOrError,
}

#[repr(C)]
union BoolOrError {
    flag: u8,
    error: Slice,
}

/// Takes over bytes that the host wrote.
///
/// # Safety
/// `ptr` comes from `reallocate` with `len` bytes and the alignment 1, and nobody has taken it before.
pub unsafe fn bytes(ptr: *mut u8, len: usize) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    Vec::from_raw_parts(ptr, len, len)
}

/// Takes over a string that the host wrote; that it is UTF-8 is the host's promise.
///
/// # Safety
/// As for `bytes`.
pub unsafe fn string(ptr: *mut u8, len: usize) -> String {
    String::from_utf8_unchecked(bytes(ptr, len))
}

/// Calls an import that writes a string into memory.
pub fn text(import: impl FnOnce(*mut Slice)) -> String {
    let mut area = MaybeUninit::uninit();
    import(area.as_mut_ptr());
    // SAFETY: the host filled the area, for nobody but us.
    unsafe { area.assume_init().into_string() }
}

/// Calls an import that gives `result<_, string>`.
pub fn nothing(import: impl FnOnce(*mut Outcome)) -> Result<()> {
    // Without an error, the value was not written.
    take(import).map(drop)
}

/// Calls an import that gives `result<string, string>`.
pub fn text_or_error(import: impl FnOnce(*mut Outcome)) -> Result<String> {
    // SAFETY: the host wrote a string, for nobody but us.
    take(import).map(|value| unsafe { value.into_string() })
}

/// Calls an import that gives `result<list<u8>, string>`.
pub fn bytes_or_error(import: impl FnOnce(*mut Outcome)) -> Result<Vec<u8>> {
    // SAFETY: the host wrote a list of bytes, for nobody but us.
    take(import).map(|value| unsafe { value.into_bytes() })
}

fn take(import: impl FnOnce(*mut Outcome)) -> Result<Slice> {
    let mut area = Outcome { failed: 0, value: Slice { ptr: std::ptr::null_mut(), len: 0 } };
    import(&mut area);
    if area.failed == 0 {
        Ok(area.value)
    } else {
        // SAFETY: an error is a string, written for nobody but us.
        Err(unsafe { area.value.into_string() }.into())
    }
}

/// Calls an import that gives `result<u64, string>`.
pub fn number_or_error(import: impl FnOnce(*mut OutcomeU64)) -> Result<u64> {
    let mut area = OutcomeU64 { failed: 0, value: U64OrError { number: 0 } };
    import(&mut area);
    // SAFETY: `failed` says which of the two the host wrote.
    unsafe {
        if area.failed == 0 {
            Ok(area.value.number)
        } else {
            Err(area.value.error.into_string().into())
        }
    }
}

/// Calls an import that gives `result<bool, string>`.
pub fn flag_or_error(import: impl FnOnce(*mut OutcomeBool)) -> Result<bool> {
    let mut area = OutcomeBool { failed: 0, value: BoolOrError { flag: 0 } };
    import(&mut area);
    // SAFETY: `failed` says which of the two the host wrote.
    unsafe {
        if area.failed == 0 {
            Ok(area.value.flag != 0)
        } else {
            Err(area.value.error.into_string().into())
        }
    }
}

// One area for all exports: the host has read it, and called `post_return`, before it calls the next one.
static mut RETURNED: Outcome = Outcome { failed: 0, value: Slice { ptr: std::ptr::null_mut(), len: 0 } };

/// What an export gives to the host.
pub fn lower(outcome: Result<()>) -> *mut Outcome {
    // SAFETY: a guest has one thread, and an export is not entered again before it has returned.
    unsafe {
        RETURNED.failed = outcome.is_err() as u8;
        if let Err(error) = outcome {
            let mut text = ManuallyDrop::new(String::from(error).into_bytes().into_boxed_slice());
            RETURNED.value = Slice { ptr: text.as_mut_ptr(), len: text.len() };
        }
        std::ptr::addr_of_mut!(RETURNED)
    }
}

/// Frees the text of an error that an export gave.
///
/// # Safety
/// `outcome` is what `lower` gave for that call.
pub unsafe fn post_return(outcome: *mut Outcome) {
    if (*outcome).failed != 0 {
        drop(bytes((*outcome).value.ptr, (*outcome).value.len));
    }
}

/// Memory for the host to write to: the export `cabi_realloc`.
///
/// # Safety
/// `old` is null, or comes from here with `old_size` bytes and the same alignment.
pub unsafe fn reallocate(old: *mut u8, old_size: usize, alignment: usize, size: usize) -> *mut u8 {
    if size == 0 {
        return alignment as *mut u8;
    }
    let wanted = Layout::from_size_align_unchecked(size, alignment);
    let new = if old_size == 0 {
        alloc(wanted)
    } else {
        realloc(old, Layout::from_size_align_unchecked(old_size, alignment), size)
    };
    if new.is_null() {
        handle_alloc_error(wanted);
    }
    new
}
