# The QEMU back end on its own: real QEMU and guest, no agent, no switch.
add_executable(vm_tool vm_tool.c)
target_link_libraries(vm_tool vn_restore)
target_include_directories(vm_tool PRIVATE ${CMAKE_SOURCE_DIR}/tests)
foreach(scenario cow stop aborts cancelled death orphan hang nic
        bad_start bad_load)
    vn_system_test(vm_${scenario} test_vm.py TIMEOUT 240 ARGS ${scenario})
endforeach()
