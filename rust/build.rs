//! Builds the guest, which is the CPython inside the sandbox, and writes it to OUT_DIR for rust/sandbox/guest.rs.
//!
//! componentize-py makes a WASM component from rust/sandbox/guest. guest/rewrite.rs extracts its memory as an image and
//! adds stop checks to its code. Cranelift compiles the code for the target. This takes half a minute, so the result is
//! cached in the target folder by a hash of all inputs. If the cache has it, the build needs no Python. The guest
//! includes numpy if recipes/numpy/build.py has built it.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use wasmtime::{Engine, OptLevel};

#[path = "sandbox/engine.rs"]
mod engine;
#[path = "sandbox/guest/rewrite.rs"]
mod rewrite;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The sources of the guest. The hash of the inputs includes them.
const SOURCES: [&str; 7] = [
    "rust/build.rs",
    "rust/sandbox/engine.rs",
    "rust/sandbox/guest/rewrite.rs",
    "rust/sandbox/guest/stop_checks.rs",
    "rust/sandbox/guest/world.wit",
    "rust/sandbox/guest/app.py",
    "rust/sandbox/guest/preload.py",
];
/// The Python packages that the build needs, in the versions that pyproject.toml pins.
const PACKAGES: [&str; 4] = ["componentize-py", "sympy", "mpmath", "tzdata"];
/// The subfolder of the target folder into which recipes/numpy/build.py writes numpy and a hash of its inputs.
const NUMPY: &str = "guest-numpy";
const NUMPY_FINGERPRINT: &str = "fingerprint";
const PRODUCTS: [&str; 3] = ["code.zst", "image.zst", "facts.rs"];
const ZSTD_LEVEL: i32 = 12;

fn main() {
    if let Err(error) = build() {
        eprintln!("error: the sandbox's guest cannot be built: {error}");
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-changed=pyproject.toml");
    println!("cargo::rerun-if-env-changed=AGENTDISTILL_GUEST_PYTHON");

    let target = env::var("TARGET")?;
    let mut config = engine::config();
    config.target(&target)?.cranelift_opt_level(OptLevel::Speed); // explicit targets have the baseline features only
    let engine = Engine::new(&config)?;
    let pins = pinned_versions()?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    let numpy = target_folder(&out).join(NUMPY);
    fs::create_dir_all(&numpy)?; // cargo would run this each time if the folder did not exist
    println!("cargo::rerun-if-changed={}", numpy.display());
    let cached = target_folder(&out).join("guest-cache").join(input_hash(&engine, &target, &pins, &numpy)?);
    if !PRODUCTS.iter().all(|product| cached.join(product).is_file()) {
        let work = out.join("guest");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work)?;
        let (component, packages) = componentize(&work, &pins, &numpy)?;
        let (component, image) = rewrite::rewrite(&component, engine::STOP_WORD)?;
        let code = engine.precompile_component(&component)?;
        let code = zstd::bulk::compress(&code, ZSTD_LEVEL)?;
        let packed_image = zstd::bulk::compress(&image, ZSTD_LEVEL)?;
        let hash = Sha256::new().chain_update(&code).chain_update(&packed_image).finalize();
        fs::write(work.join(PRODUCTS[0]), code)?;
        fs::write(work.join(PRODUCTS[1]), packed_image)?;
        fs::write(work.join(PRODUCTS[2]), facts(&image, &hash, &packages)?)?;
        publish(&work, &cached)?;
    }
    for product in PRODUCTS {
        fs::copy(cached.join(product), out.join(product))?;
    }
    Ok(())
}

/// Returns cargo's target folder, which all profiles and features share.
fn target_folder(out: &Path) -> &Path {
    let root = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    root.or(out.ancestors().nth(4)).unwrap_or(out)
}

fn input_hash(engine: &Engine, target: &str, pins: &[String], numpy: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for source in SOURCES {
        hash.update(fs::read(source)?);
        hash.update([0]);
    }
    hash.update(pins.join(" "));
    if let Ok(fingerprint) = fs::read(numpy.join(NUMPY_FINGERPRINT)) {
        hash.update(fingerprint);
    }
    hash.update(target);
    // A compiled empty component contains wasmtime's version and all settings of the compiler and the machine.
    hash.update(engine.precompile_component(b"\0asm\x0d\0\x01\0")?);
    Ok(hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect())
}

/// Returns `name==version` for each of PACKAGES, from pyproject.toml.
fn pinned_versions() -> Result<Vec<String>> {
    let text = fs::read_to_string("pyproject.toml")?;
    PACKAGES
        .iter()
        .map(|package| {
            let start =
                text.find(&format!("\"{package}==")).ok_or(format!("pyproject.toml does not pin {package}"))? + 1;
            let end = text[start..].find('"').ok_or("pyproject.toml ends in the middle of a string")?;
            Ok(text[start..start + end].to_string())
        })
        .collect()
}

/// Returns the component, and the names of its packages that cells can import.
fn componentize(work: &Path, pins: &[String], numpy: &Path) -> Result<(Vec<u8>, Vec<String>)> {
    let (python, mut packages) = find_python(pins)?;
    if numpy.join(NUMPY_FINGERPRINT).is_file() {
        packages.push(numpy.join("numpy"));
    }
    // componentize-py includes whole folders, and the guest writes bytecode to them. So it gets copies of the packages
    // that are needed, and not site-packages.
    let guest = work.join("guest");
    copy_package(Path::new("rust/sandbox/guest"), &guest)?;
    let dependencies = work.join("packages");
    let mut names = Vec::new();
    for package in packages {
        let name = package.file_name().and_then(|name| name.to_str()).ok_or("a Python package without a name")?;
        copy_package(&package, &dependencies.join(name))?;
        if name != "tzdata" {
            names.push(name.to_owned());
        }
    }
    names.sort();
    // componentize-py adds the active virtual environment, so it gets an empty one.
    let nothing = work.join("nothing");
    fs::create_dir_all(nothing.join("lib/site-packages"))?;
    let component = work.join("guest.wasm");
    let mut command = Command::new(&python);
    command
        .args(["-c", "import sys; from componentize_py import script; sys.exit(script())"])
        .args(["-d", "rust/sandbox/guest/world.wit"])
        .args(["-w", "sandbox", "componentize", "-p"])
        .arg(guest)
        .arg("-p")
        .arg(&dependencies)
        .args(["app", "-o"])
        .arg(&component)
        .env("VIRTUAL_ENV", &nothing);
    // The first run compiles the packages to bytecode. The second one finds the bytecode, and its image has a sixth
    // less garbage.
    for _ in 0..2 {
        let run = command.output()?;
        if !run.status.success() {
            let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
            return Err(format!("componentize-py failed ({}):\n{stdout}{stderr}", run.status).into());
        }
    }
    Ok((fs::read(component)?, names))
}

/// Returns a Python that has the pinned packages, and the folders of the packages for the guest.
fn find_python(pins: &[String]) -> Result<(PathBuf, Vec<PathBuf>)> {
    const SCRIPT: &str = "import importlib.metadata as m, sys
for pin in sys.argv[1:]:
    name, version = pin.split('==')
    try: found = m.version(name)
    except m.PackageNotFoundError: sys.exit(f'has no {name}')
    if found != version: sys.exit(f'has {name} {found}, not {version}')
import componentize_py, sympy, mpmath, tzdata
print(*sympy.__path__, *mpmath.__path__, *tzdata.__path__, sep='\\n')";

    let named = env::var_os("AGENTDISTILL_GUEST_PYTHON").map(PathBuf::from);
    let candidates = match named {
        Some(python) => vec![python],
        None => [
            env::var_os("VIRTUAL_ENV").map(|folder| Path::new(&folder).join("bin/python")),
            env::var_os("PYO3_PYTHON").map(PathBuf::from),
            Some(Path::new(&env::var("CARGO_MANIFEST_DIR")?).join(".venv/bin/python")),
            Some("python3".into()),
        ]
        .into_iter()
        .flatten()
        .collect(),
    };
    let mut tried = String::new();
    for python in candidates {
        match Command::new(&python).args(["-c", SCRIPT]).args(pins).output() {
            Ok(run) if run.status.success() => {
                let folders = String::from_utf8(run.stdout)?.lines().map(PathBuf::from).collect();
                return Ok((python, folders));
            }
            Ok(run) => {
                let stderr = String::from_utf8_lossy(&run.stderr);
                tried += &format!("\n  {}: {}", python.display(), stderr.trim().lines().last().unwrap_or("failed"));
            }
            Err(error) => tried += &format!("\n  {}: {error}", python.display()),
        }
    }
    let pins = pins.join(" ");
    Err(format!(
        "no Python has the packages for it. Tried:{tried}\nInstall them (`pip install {pins}`, preferably in .venv), \
         or set AGENTDISTILL_GUEST_PYTHON to a Python that has them."
    )
    .into())
}

/// Copies a package without its tests: sources, extension modules, and time zones (files without an extension).
fn copy_package(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if name != "tests" && name != "__pycache__" {
                copy_package(&entry.path(), &to.join(name))?;
            }
        } else if entry.path().extension().is_none_or(|extension| extension == "py" || extension == "so") {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

/// Returns facts about the image as Rust constants: addresses in the guest's memory, packages and a hash.
fn facts(image: &[u8], hash: &[u8], packages: &[String]) -> Result<String> {
    let u32_at = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).ok_or("an address beyond the image")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    // The beacon of guest/app.py: 32 bytes of magic number, the flag "a cell is running", the address of TimeoutError.
    let beacon = find_once(image, &std::array::from_fn::<u8, 32, _>(|i| (i * 37 + 11) as u8))?;
    // _Py_DebugOffsets (CPython 3.14, pycore_debug_offsets.h), at the start of _PyRuntime: magic, version, then sizes
    // and offsets of 8 bytes each.
    let runtime = find_once(image, b"xdebugpy")?;
    if u32_at(runtime + 8)? >> 16 != 0x030e {
        return Err("the guest is not CPython 3.14: update the offsets of its thread state".into());
    }
    let (interpreters_head, threads_head) = (u32_at(runtime + 40)?, u32_at(runtime + 72)?);
    let (interpreter_offset, thread_id_offset) = (u32_at(runtime + 200)?, u32_at(runtime + 216)?);
    let interpreter = u32_at(runtime + interpreters_head)?;
    let thread = u32_at(interpreter + threads_head)?;
    if u32_at(thread + interpreter_offset)? != interpreter {
        return Err("the guest's thread state is not at the expected address".into());
    }
    Ok(format!(
        "/// The size of the image in bytes.\npub const IMAGE_LEN: usize = {};\n\
         /// SHA-256 of code.zst and image.zst.\npub const HASH: [u8; 32] = {:?};\n\
         /// The names of its packages besides the standard library.\npub const PACKAGES: &[&str] = &{packages:?};\n\
         // Addresses in the guest's memory:\n\
         /// Not 0 while a cell runs. The next byte is not 0 after the host sent TimeoutError.\n\
         pub const IN_CELL: u32 = {};\n\
         /// The field of CPython's thread state for an exception that another thread sent.\n\
         pub const ASYNC_EXCEPTION: u32 = {};\n\
         /// The field of CPython's thread state whose bits make the interpreter check for such exceptions.\n\
         pub const EVAL_BREAKER: u32 = {};\n\
         /// The class TimeoutError.\npub const TIMEOUT_ERROR: u32 = {};\n",
        image.len(),
        hash,
        beacon + 32,
        thread + thread_id_offset - 4,
        thread + interpreter_offset + 4,
        u32_at(beacon + 36)?,
    ))
}

fn find_once(image: &[u8], needle: &[u8]) -> Result<usize> {
    let mut found = (0..image.len() - needle.len()).step_by(8).filter(|&at| image[at..].starts_with(needle));
    match (found.next(), found.next()) {
        (Some(at), None) => Ok(at),
        (None, _) => Err(format!("{} is not in the guest's image", needle.escape_ascii()).into()),
        (Some(_), Some(_)) => Err(format!("{} is in the guest's image twice", needle.escape_ascii()).into()),
    }
}

/// Moves the products into the cache in one step, because other builds may run at the same time.
fn publish(work: &Path, cached: &Path) -> Result<()> {
    let parent = cached.parent().ok_or("the cache has no parent folder")?;
    fs::create_dir_all(parent)?;
    let staging = parent.join(format!("staging-{}", std::process::id()));
    fs::create_dir_all(&staging)?;
    for product in PRODUCTS {
        fs::rename(work.join(product), staging.join(product))
            .or_else(|_| fs::copy(work.join(product), staging.join(product)).map(|_| ()))?;
    }
    let _ = fs::remove_dir_all(cached); // it was incomplete
    if fs::rename(&staging, cached).is_err() {
        fs::remove_dir_all(&staging)?; // another build was faster
    }
    fs::remove_dir_all(work)?;
    Ok(())
}
