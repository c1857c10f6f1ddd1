/* libFuzzer's entry into Python: each input goes to `fuzz.covered.one`, and what that raises is a
   finding. The extension is compiled for coverage too, so what steers the search is its branches. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>

static PyObject *one;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    Py_Initialize();
    PyObject *module = PyImport_ImportModule("fuzz.covered");
    one = module == NULL ? NULL : PyObject_GetAttrString(module, "one");
    if (one == NULL) {
        PyErr_Print();
        exit(1);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    PyObject *done = PyObject_CallFunction(one, "y#", (const char *)data, (Py_ssize_t)size);
    if (done == NULL) {
        PyErr_Print();
        abort();
    }
    Py_DECREF(done);
    return 0;
}
