//! Stand-in until the core's bindings land.

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;

use crate::Error;
use crate::observation::{Observation, ObservationKind, ToolCall};

mod sandbox;

create_exception!(agentdistill, AgentDistillError, PyException);
create_exception!(agentdistill, SandboxError, AgentDistillError);

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Argument(_) => PyValueError::new_err(message),
            _ => SandboxError::new_err(message),
        }
    }
}

impl<'py> IntoPyObject<'py> for ObservationKind {
    type Target = pyo3::types::PyString;
    type Output = Bound<'py, Self::Target>;
    type Error = std::convert::Infallible;
    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        let name = serde_json::to_value(self).unwrap();
        Ok(pyo3::types::PyString::new(py, name.as_str().unwrap()))
    }
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("SandboxError", module.py().get_type::<SandboxError>())?;
    module.add("AgentDistillError", module.py().get_type::<AgentDistillError>())?;
    module.add_class::<Observation>()?;
    module.add_class::<ToolCall>()?;
    sandbox::register(module)
}
