# Real Xen domains: two hosts booted in QEMU (tests/lib/xen_host.py). The tools
# run in dom0, so they are built where the back end is.
if(TARGET PkgConfig::xen)
    add_executable(xen_tool xen_tool.c)
    target_link_libraries(xen_tool vn_restore)
    target_include_directories(xen_tool PRIVATE ${CMAKE_SOURCE_DIR}/tests)
    add_executable(xen_standing xen_standing.c)
    target_link_libraries(xen_standing vn_capture)
    # Ten minutes: a part of `tests/run system`, or alone as `tests/run xen`,
    # but not of the run of everything.
    vn_system_test(domains test_xen.py TIMEOUT 1200 LABEL xen ARGS Xen)
    set_tests_properties(xen.domains PROPERTIES LABELS "system;xen")
endif()
