//! The calls into the library: `gssapi.h` (RFC 2744, appendix A) and `gssapi_ext.h` of MIT krb5.
//!
//! The rules that every call here keeps: buffers and names that the library gives are owned by the type that releases
//! them; what it is given lives until the call returns, and it keeps no pointer to it; `minor` and all places for results
//! are valid for writing. The library may be called from any thread; an object is given to it by one thread at a time,
//! as it is behind `&mut` or a lock.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::{Mutex, PoisonError};

/// Errors of a routine (RFC 2744, 3.9.1).
const ERROR_OFFSET: u32 = 16;
pub(super) const BAD_MESSAGE: u32 = 6;
pub(super) const DEFECTIVE_TOKEN: u32 = 9;
pub(super) const DEFECTIVE_CREDENTIAL: u32 = 10;
pub(super) const CREDENTIALS_EXPIRED: u32 = 11;
pub(super) const CONTEXT_EXPIRED: u32 = 12;
const ERRORS: u32 = 0xffff_0000;
/// What else a call may say (RFC 2744, 3.9.1).
const CONTINUE_NEEDED: u32 = 1;
const DUPLICATE_TOKEN: u32 = 1 << 1;
const OLD_TOKEN: u32 = 1 << 2;
const UNSEQ_TOKEN: u32 = 1 << 3;
const GAP_TOKEN: u32 = 1 << 4;

/// Flags of a context.
const CONF_FLAG: u32 = 16;
const INTEG_FLAG: u32 = 32;
const ANON_FLAG: u32 = 64;
const INDEFINITE: u32 = u32::MAX;
const USAGE_ACCEPT: c_int = 2;
/// Kinds of status codes.
const GSS_CODE: c_int = 1;
const MECH_CODE: c_int = 2;

/// Kerberos (RFC 4121, 1): 1.2.840.113554.1.2.2.
static KERBEROS: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 1, 2, 2];
/// A principal's name (RFC 1964, 2.1.1): 1.2.840.113554.1.2.2.1.
static PRINCIPAL_NAME: [u8; 10] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 1, 2, 2, 1];
/// A service's name (RFC 2743, 4.1): 1.2.840.113554.1.2.1.4.
static HOSTBASED_SERVICE: [u8; 10] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 1, 2, 1, 4];

/// `gss_buffer_desc`.
#[repr(C)]
struct RawBuffer {
    length: usize,
    value: *mut c_void,
}

/// `gss_OID_desc`.
#[repr(C)]
struct RawOid {
    length: u32,
    elements: *mut c_void,
}

/// `gss_OID_set_desc`.
#[repr(C)]
struct RawOidSet {
    count: usize,
    elements: *mut RawOid,
}

/// `gss_key_value_element_desc`.
#[repr(C)]
struct RawKeyValue {
    key: *const c_char,
    value: *const c_char,
}

/// `gss_key_value_set_desc`.
#[repr(C)]
struct RawKeyValues {
    count: u32,
    elements: *mut RawKeyValue,
}

#[repr(C)]
struct RawName {
    _opaque: [u8; 0],
}

#[repr(C)]
struct RawCredentials {
    _opaque: [u8; 0],
}

#[repr(C)]
struct RawContext {
    _opaque: [u8; 0],
}

#[link(name = "gssapi_krb5")]
unsafe extern "C" {
    fn gss_import_name(
        minor: *mut u32,
        text: *const RawBuffer,
        kind: *const RawOid,
        name: *mut *mut RawName,
    ) -> u32;
    fn gss_display_name(
        minor: *mut u32,
        name: *mut RawName,
        text: *mut RawBuffer,
        kind: *mut *mut RawOid,
    ) -> u32;
    fn gss_release_name(minor: *mut u32, name: *mut *mut RawName) -> u32;
    fn gss_release_buffer(minor: *mut u32, buffer: *mut RawBuffer) -> u32;
    fn gss_acquire_cred_from(
        minor: *mut u32,
        name: *mut RawName,
        time: u32,
        mechanisms: *const RawOidSet,
        usage: c_int,
        store: *const RawKeyValues,
        credentials: *mut *mut RawCredentials,
        actual: *mut *mut RawOidSet,
        lifetime: *mut u32,
    ) -> u32;
    fn gss_release_cred(minor: *mut u32, credentials: *mut *mut RawCredentials) -> u32;
    fn gss_accept_sec_context(
        minor: *mut u32,
        context: *mut *mut RawContext,
        credentials: *mut RawCredentials,
        token: *const RawBuffer,
        bindings: *const c_void,
        initiator: *mut *mut RawName,
        mechanism: *mut *mut RawOid,
        reply: *mut RawBuffer,
        flags: *mut u32,
        lifetime: *mut u32,
        delegated: *mut *mut RawCredentials,
    ) -> u32;
    fn gss_delete_sec_context(minor: *mut u32, context: *mut *mut RawContext, token: *mut RawBuffer) -> u32;
    fn gss_wrap(
        minor: *mut u32,
        context: *mut RawContext,
        confidential: c_int,
        quality: u32,
        message: *const RawBuffer,
        is_confidential: *mut c_int,
        token: *mut RawBuffer,
    ) -> u32;
    fn gss_unwrap(
        minor: *mut u32,
        context: *mut RawContext,
        token: *const RawBuffer,
        message: *mut RawBuffer,
        is_confidential: *mut c_int,
        quality: *mut u32,
    ) -> u32;
    fn gss_wrap_size_limit(
        minor: *mut u32,
        context: *mut RawContext,
        confidential: c_int,
        quality: u32,
        token: u32,
        message: *mut u32,
    ) -> u32;
    fn gss_display_status(
        minor: *mut u32,
        status: u32,
        kind: c_int,
        mechanism: *const RawOid,
        more: *mut u32,
        text: *mut RawBuffer,
    ) -> u32;
}

/// A call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// The routine's error.
    pub(super) error: u32,
    /// The mechanism's code.
    pub(super) minor: i32,
    text: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Failed {
    fn new(major: u32, minor: u32) -> Self {
        let mut words = status(major, GSS_CODE);
        if minor != 0 {
            words.push_str(": ");
            words.push_str(&status(minor, MECH_CODE));
        }
        Self {
            error: (major >> ERROR_OFFSET) & 0xff,
            minor: minor.cast_signed(),
            text: words,
        }
    }

    fn check(major: u32, minor: u32) -> Result<(), Self> {
        if major & ERRORS == 0 {
            Ok(())
        } else {
            Err(Self::new(major, minor))
        }
    }
}

/// The library's first words for a status code; there are more where several flags are set, which say nothing new.
fn status(code: u32, kind: c_int) -> String {
    let (mut minor, mut more) = (0, 0);
    let mut text = Buffer::empty();
    let mechanism = oid(&KERBEROS);
    // SAFETY: all pointers are to values that live here; the text is owned by `Buffer`.
    unsafe { gss_display_status(&mut minor, code, kind, &mechanism, &mut more, &mut text.0) };
    String::from_utf8_lossy(text.get()).into_owned()
}

fn oid(octets: &'static [u8]) -> RawOid {
    RawOid {
        length: u32::try_from(octets.len()).unwrap_or(0),
        // The library does not write there; the type of C says nothing about that.
        elements: octets.as_ptr().cast_mut().cast(),
    }
}

/// A view of octets for the library, which only reads them.
struct View<'a>(RawBuffer, PhantomData<&'a [u8]>);

impl<'a> View<'a> {
    fn new(octets: &'a [u8]) -> Self {
        let value = octets.as_ptr().cast_mut().cast();
        let length = octets.len();
        Self(RawBuffer { length, value }, PhantomData)
    }
}

/// Octets of the library's.
pub(super) struct Buffer(RawBuffer);

impl Buffer {
    fn empty() -> Self {
        Self(RawBuffer {
            length: 0,
            value: null_mut(),
        })
    }

    /// The octets.
    pub(super) fn get(&self) -> &[u8] {
        if self.0.value.is_null() || self.0.length == 0 {
            return &[];
        }
        // SAFETY: the library filled the buffer with `length` octets at `value`, which are not changed until it is
        // released, and that happens in `drop`.
        unsafe { std::slice::from_raw_parts(self.0.value.cast(), self.0.length) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the buffer is the library's or empty, and nobody has a view of it any more.
        unsafe { gss_release_buffer(&mut minor, &mut self.0) };
    }
}

/// A name of the library's; it may be none.
struct Name(*mut RawName);

impl Name {
    /// A service such as `rcmd` or `rcmd@host`, or with `/` in it a principal.
    fn import(text: &str) -> Result<Self, Failed> {
        let kind = if text.contains('/') {
            oid(&PRINCIPAL_NAME)
        } else {
            oid(&HOSTBASED_SERVICE)
        };
        let (mut minor, mut name) = (0, Name(null_mut()));
        let text = View::new(text.as_bytes());
        // SAFETY: the text and the kind live until the call returns; the name is owned by `Name`.
        let major = unsafe { gss_import_name(&mut minor, &text.0, &kind, &mut name.0) };
        Failed::check(major, minor)?;
        Ok(name)
    }

    fn display(&self) -> Result<Vec<u8>, Failed> {
        let (mut minor, mut text) = (0, Buffer::empty());
        // SAFETY: the name is one of the library's or null, which the library refuses; the text is owned by `Buffer`.
        let major = unsafe { gss_display_name(&mut minor, self.0, &mut text.0, null_mut()) };
        Failed::check(major, minor)?;
        Ok(text.get().to_vec())
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the name is the library's or null, and nobody else has it.
        unsafe { gss_release_name(&mut minor, &mut self.0) };
    }
}

/// Where keys are, and where used tokens are written down.
pub(super) struct Store<'a> {
    pub(super) keytab: &'a Path,
    pub(super) replay_cache: &'a Path,
}

/// The right to accept contexts.
pub(super) struct Credentials(Mutex<*mut RawCredentials>);

// SAFETY: the library's credentials belong to no thread, and the lock gives them to one at a time.
unsafe impl Send for Credentials {}
// SAFETY: as above: all use of the pointer is under the lock.
unsafe impl Sync for Credentials {}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Those of a service.
    pub(super) fn acquire(principal: &str, store: &Store<'_>) -> Result<Self, Failed> {
        let name = Name::import(principal)?;
        let text = |kind: &[u8], path: &Path| {
            CString::new([kind, path.as_os_str().as_bytes()].concat()).unwrap_or_default()
        };
        let (keytab, replays) = (text(b"FILE:", store.keytab), text(b"file2:", store.replay_cache));
        let mut elements = [
            RawKeyValue {
                key: c"keytab".as_ptr(),
                value: keytab.as_ptr(),
            },
            RawKeyValue {
                key: c"rcache".as_ptr(),
                value: replays.as_ptr(),
            },
        ];
        let store = RawKeyValues {
            count: 2,
            elements: elements.as_mut_ptr(),
        };
        let mut kerberos = oid(&KERBEROS);
        let mechanisms = RawOidSet {
            count: 1,
            elements: &mut kerberos,
        };
        let (mut minor, mut credentials) = (0, null_mut());
        // SAFETY: the name is the library's; the mechanisms and the store, with the texts that they point to, live until
        // the call returns; the credentials are owned by `Credentials`, and what else it could give is not asked for.
        let major = unsafe {
            gss_acquire_cred_from(
                &mut minor,
                name.0,
                INDEFINITE,
                &mechanisms,
                USAGE_ACCEPT,
                &store,
                &mut credentials,
                null_mut(),
                null_mut(),
            )
        };
        let credentials = Self(Mutex::new(credentials));
        Failed::check(major, minor)?;
        Ok(credentials)
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        let mut minor = 0;
        let credentials = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: they are the library's or null, and nobody else has them.
        unsafe { gss_release_cred(&mut minor, credentials) };
    }
}

/// A context that the library has begun; null: not even that.
struct Handle(*mut RawContext);

// SAFETY: a context of the library belongs to no thread; this one has a single owner.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the context is the library's or null, and nobody else has it; without a buffer no token is made
        // (RFC 1961, 6).
        unsafe { gss_delete_sec_context(&mut minor, &mut self.0, null_mut()) };
    }
}

/// A context that does not stand yet.
pub(super) struct Partial(Handle);

/// What a token led to.
pub(super) enum Accepted {
    Continue { reply: Vec<u8>, partial: Partial },
    Complete(Complete),
}

/// A context that stands.
pub(super) struct Complete {
    pub(super) reply: Vec<u8>,
    pub(super) initiator: Vec<u8>,
    pub(super) anonymous: bool,
    pub(super) integrity: bool,
    pub(super) confidentiality: bool,
    /// In seconds; `None`: for ever.
    pub(super) lifetime: Option<u32>,
    pub(super) context: Context,
}

impl Partial {
    /// A context of which nobody has said anything.
    pub(super) fn none() -> Self {
        Self(Handle(null_mut()))
    }

    /// Takes the initiator's next token.
    pub(super) fn accept(mut self, credentials: &Credentials, token: &[u8]) -> Result<Accepted, Failed> {
        let (mut minor, mut flags, mut lifetime) = (0, 0, 0);
        let mut initiator = Name(null_mut());
        let mut reply = Buffer::empty();
        let token = View::new(token);
        let credentials = credentials.0.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the context is the library's or null; the credentials are the library's and locked; the token lives
        // until the call returns; reply and initiator are owned by their types. The mechanism and delegated credentials
        // are not asked for.
        let major = unsafe {
            gss_accept_sec_context(
                &mut minor,
                &mut self.0.0,
                *credentials,
                &token.0,
                null(),
                &mut initiator.0,
                null_mut(),
                &mut reply.0,
                &mut flags,
                &mut lifetime,
                null_mut(),
            )
        };
        drop(credentials);
        Failed::check(major, minor)?;
        let reply = reply.get().to_vec();
        if major & CONTINUE_NEEDED != 0 {
            return Ok(Accepted::Continue { reply, partial: self });
        }
        Ok(Accepted::Complete(Complete {
            reply,
            initiator: initiator.display()?,
            anonymous: flags & ANON_FLAG != 0,
            integrity: flags & INTEG_FLAG != 0,
            confidentiality: flags & CONF_FLAG != 0,
            lifetime: (lifetime != INDEFINITE).then_some(lifetime),
            context: Context(self.0),
        }))
    }
}

/// A context that stands.
pub(super) struct Context(Handle);

/// A message or a token.
pub(super) struct Wrapped {
    pub(super) octets: Buffer,
    pub(super) confidential: bool,
    pub(super) repeated: bool,
    pub(super) out_of_order: bool,
}

impl Context {
    /// The token of a message.
    pub(super) fn wrap(&mut self, confidential: bool, message: &[u8]) -> Result<Wrapped, Failed> {
        let (mut minor, mut is_confidential) = (0, 0);
        let (message, mut token) = (View::new(message), Buffer::empty());
        // SAFETY: the context is the library's and ours alone for this call; the message lives until it returns; the
        // token is owned by `Buffer`.
        let major = unsafe {
            gss_wrap(
                &mut minor,
                self.0.0,
                confidential.into(),
                0,
                &message.0,
                &mut is_confidential,
                &mut token.0,
            )
        };
        Failed::check(major, minor)?;
        Ok(Wrapped {
            octets: token,
            confidential: is_confidential != 0,
            repeated: false,
            out_of_order: false,
        })
    }

    /// The message of a token.
    pub(super) fn unwrap(&mut self, token: &[u8]) -> Result<Wrapped, Failed> {
        let (mut minor, mut is_confidential, mut quality) = (0, 0, 0);
        let (token, mut message) = (View::new(token), Buffer::empty());
        // SAFETY: the context is the library's and ours alone for this call; the token lives until it returns; the
        // message is owned by `Buffer`.
        let major = unsafe {
            gss_unwrap(
                &mut minor,
                self.0.0,
                &token.0,
                &mut message.0,
                &mut is_confidential,
                &mut quality,
            )
        };
        Failed::check(major, minor)?;
        Ok(Wrapped {
            octets: message,
            confidential: is_confidential != 0,
            repeated: major & (DUPLICATE_TOKEN | OLD_TOKEN) != 0,
            out_of_order: major & (UNSEQ_TOKEN | GAP_TOKEN) != 0,
        })
    }

    /// The longest message whose token has at most so many octets; 0 where nobody can say.
    pub(super) fn wrap_size_limit(&self, confidential: bool, token: u32) -> u32 {
        let (mut minor, mut message) = (0, 0);
        // SAFETY: the context is the library's; it is asked for a number and not changed, and no other thread has it
        // now, as `Context` is not shared between threads.
        let major =
            unsafe { gss_wrap_size_limit(&mut minor, self.0.0, confidential.into(), 0, token, &mut message) };
        if major & ERRORS == 0 { message } else { 0 }
    }
}
