# A VM's state through the store into a fresh QEMU, without agent and switch.
add_executable(stream_tool stream_tool.c)
target_link_libraries(stream_tool vn_restore)
vn_system_test(stream_roundtrip test_stream_roundtrip.py TIMEOUT 180)
