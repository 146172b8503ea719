"""What `vla-ros doctor` knows: observations of a live graph in, findings with their remedy out. Imports no ROS.

    graph ──cli.doctor.observe──► Observed ┐
    host  ──host.read───────────► Host     ┴──examine──► list[Finding]

What is expected comes from the robot's contract, its URDF and the safety files; nothing is listed here a second time.
"""
