"""Where a person's commands come from: keys, sticks, and the joints of leader arms, brought into the units of a robot's contract.

    keyboard, gamepad       velocity of the tip in the table's plane     velocity.py, joystick.py
    leaders, joint_states   where every joint shall be                   joints.py

What they say is published on /teleop/... and nowhere else, so that it passes robots/teleoperation.py, the safety filter and the
recorder. Nothing here knows ROS.
"""
