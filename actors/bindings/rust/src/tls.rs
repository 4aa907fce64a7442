//! What the two ends of a TLS connection agreed on: the records of `theater:simple/tcp-ext`.

use crate::abi::Slice;
use crate::Result;
use std::mem::MaybeUninit;

/// What the two ends of a TLS connection agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSession {
    /// `TLSv1.3`, `TLSv1.2`.
    pub version: String,
    /// The cipher suite, by OpenSSL's name.
    pub cipher: String,
    /// The protocol that ALPN chose.
    pub alpn: Option<String>,
    /// The name that the client asked for (SNI).
    pub server_name: Option<String>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// What the peer showed.
    pub peer_certificate: Option<PeerCertificate>,
}

/// A certificate, as its owner's peer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Its subject, as RFC 4514 writes names.
    pub subject: String,
    /// Its issuer, written the same way.
    pub issuer: String,
    /// The DNS names and addresses that it is for.
    pub names: Vec<String>,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fingerprint: String,
}

// The same in memory: a variant's tag, and its payload behind it, which means something only where the tag says so.

/// `result<option<tls-session>, string>`.
#[repr(C)]
pub struct Outcome {
    failed: u8,
    value: SessionOrError,
}

#[repr(C)]
union SessionOrError {
    session: MaybeSession,
    error: Slice,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct MaybeSession {
    present: u8,
    session: MaybeUninit<RawSession>,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct RawSession {
    version: Slice,
    cipher: Slice,
    alpn: MaybeText,
    server_name: MaybeText,
    resumed: u8,
    peer_certificate: MaybeCertificate,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct MaybeText {
    present: u8,
    text: MaybeUninit<Slice>,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct MaybeCertificate {
    present: u8,
    certificate: MaybeUninit<RawCertificate>,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct RawCertificate {
    subject: Slice,
    issuer: Slice,
    names: Slice,
    fingerprint: Slice,
}

const _: () = assert!(std::mem::size_of::<Outcome>() == 88 || cfg!(not(target_pointer_width = "32")));

/// Calls an import that gives `result<option<tls-session>, string>`.
pub fn session_or_error(import: impl FnOnce(*mut Outcome)) -> Result<Option<TlsSession>> {
    let mut area = MaybeUninit::uninit();
    import(area.as_mut_ptr());
    // SAFETY: the host filled the area, as far as its tags go, for nobody but us.
    unsafe {
        let area: *const Outcome = area.as_ptr();
        if (*area).failed != 0 {
            return Err((*area).value.error.into_string().into());
        }
        let maybe = std::ptr::addr_of!((*area).value.session);
        if (*maybe).present == 0 {
            return Ok(None);
        }
        let raw = (*maybe).session.as_ptr();
        Ok(Some(TlsSession {
            version: (*raw).version.into_string(),
            cipher: (*raw).cipher.into_string(),
            alpn: (*raw).alpn.take(),
            server_name: (*raw).server_name.take(),
            resumed: (*raw).resumed != 0,
            peer_certificate: (*raw).peer_certificate.take(),
        }))
    }
}

impl MaybeText {
    unsafe fn take(&self) -> Option<String> {
        if self.present == 0 {
            return None;
        }
        Some(self.text.assume_init().into_string())
    }
}

impl MaybeCertificate {
    unsafe fn take(&self) -> Option<PeerCertificate> {
        if self.present == 0 {
            return None;
        }
        let raw = self.certificate.as_ptr();
        Some(PeerCertificate {
            subject: (*raw).subject.into_string(),
            issuer: (*raw).issuer.into_string(),
            names: strings((*raw).names),
            fingerprint: (*raw).fingerprint.into_string(),
        })
    }
}

/// Takes over a list of strings.
unsafe fn strings(list: Slice) -> Vec<String> {
    if list.len == 0 {
        return Vec::new();
    }
    let items = Vec::from_raw_parts(list.ptr.cast::<Slice>(), list.len, list.len);
    items.into_iter().map(|item| item.into_string()).collect()
}
