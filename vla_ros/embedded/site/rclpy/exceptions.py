"""Exceptions of rclpy."""

from __future__ import annotations


class NotInitializedException(Exception):
    """rclpy.init() was not called, or the context is shut down."""

    def __init__(self, *args: object) -> None:
        super().__init__("rclpy.init() has not been called", *args)


class RCLError(RuntimeError):
    """An error that rcl would report."""


class InvalidHandle(Exception):
    """The entity was destroyed."""


class InvalidNameException(ValueError):
    """A node, topic, service or namespace name that ROS 2 does not allow."""

    def __init__(self, kind: str, name: str, reason: str) -> None:
        super().__init__(f"Invalid {kind}: {reason}:\n  '{name}'")


class InvalidNodeNameException(InvalidNameException):
    """Bad node name."""


class InvalidNamespaceException(InvalidNameException):
    """Bad namespace."""


class InvalidTopicNameException(InvalidNameException):
    """Bad topic name."""


class InvalidServiceNameException(InvalidNameException):
    """Bad service name."""


class NoTypeSupportImportedException(Exception):
    """Not a message class."""


class ParameterException(Exception):
    """Base of parameter errors."""

    def __init__(self, message: str, parameters: object, *args: object) -> None:
        super().__init__(f"{message}: {parameters}", *args)


class ParameterNotDeclaredException(ParameterException):
    """Parameter is not declared."""

    def __init__(self, parameters: object, *args: object) -> None:
        super().__init__("Invalid access to undeclared parameter(s)", parameters, *args)


class ParameterAlreadyDeclaredException(ParameterException):
    """Parameter is declared twice."""

    def __init__(self, parameters: object, *args: object) -> None:
        super().__init__("Parameter(s) already declared", parameters, *args)


class ParameterUninitializedException(ParameterException):
    """Statically typed parameter without a value."""

    def __init__(self, parameter: str, *args: object) -> None:
        super().__init__("The parameter is not initialized", parameter, *args)


class ParameterImmutableException(ParameterException):
    """Read-only parameter may not be undeclared."""

    def __init__(self, parameter: str, *args: object) -> None:
        super().__init__("Attempted to modify read-only parameter", parameter, *args)


class InvalidParameterException(ParameterException):
    """Bad parameter name."""

    def __init__(self, parameter: str, *args: object) -> None:
        super().__init__("Invalid parameter name", parameter, *args)


class InvalidParameterTypeException(ParameterException):
    """Value of another type than declared."""

    def __init__(self, parameter: object, *args: object) -> None:
        super().__init__("Trying to set parameter to a value of the wrong type", parameter, *args)


class InvalidParameterValueException(ParameterException):
    """Value outside of the descriptor's range, or rejected by a callback."""

    def __init__(self, parameter: str, value: object, reason: str, *args: object) -> None:
        Exception.__init__(self, f"Invalid parameter value ({value!r}) for parameter '{parameter}'. Reason: {reason}", *args)


class ROSInterruptException(Exception):
    """Shutdown while waiting."""

    def __init__(self, *args: object) -> None:
        super().__init__("rclpy.shutdown() has been called", *args)


class TimeoutException(Exception):
    """Waiting took too long."""
