# cython: language_level=3, auto_pickle=False, autotestdict=False
"""Read the `__slots__` of another library's objects from C, by where they lie in the object.

The interpreter remembers for each line of Python code where a slot lies. From C each look searches
the names of the class and of its bases again, which costs 15 times as much.

These functions are compiled in both forms of the library.
"""

from cpython.object cimport PyObject, PyObject_TypeCheck, PyTypeObject
from types import MemberDescriptorType

cdef extern from "structmember.h":
    const int T_OBJECT_EX
    ctypedef struct PyMemberDef:
        int type
        Py_ssize_t offset
    ctypedef struct PyMemberDescrObject:
        PyMemberDef* d_member


cdef class Member:
    """One slot of a class. Made by `member_of`."""

    def __init__(self):
        raise TypeError("use member_of()")

    cpdef object get(self, instance):
        """Return what an instance has in this slot.

        Raises:
            TypeError: It is an object of another class, in which the slot would lie elsewhere.
            AttributeError: The slot is empty.
        """
        if not PyObject_TypeCheck(instance, <PyTypeObject*>self._owner):
            raise TypeError(f"{type(instance).__name__} is not a {self._owner.__name__}")
        cdef PyObject* value = (<PyObject**>(<char*><PyObject*>instance + self._offset))[0]
        if value is NULL:
            raise AttributeError(f"an empty slot of {self._owner.__name__}")
        return <object>value


cpdef Member member_of(owner, name):
    """Find a slot of a class by its name. Return None if the class has no such slot.

    So it does if that is an ordinary attribute or a property, or `owner` is not a class.
    """
    if not isinstance(owner, type):
        return None
    descriptor = getattr(owner, name, None)
    if type(descriptor) is not MemberDescriptorType:
        return None
    cdef PyMemberDef* definition = (<PyMemberDescrObject*>descriptor).d_member
    if definition.type != T_OBJECT_EX:  # a field of a class in C, which need not be an object
        return None
    cdef Member member = Member.__new__(Member)
    member._owner = descriptor.__objclass__
    member._offset = definition.offset
    return member
