#ifndef CAPTURE_VM_SIM_H
#define CAPTURE_VM_SIM_H

/*
 * A VM without an emulator, for tests of what lies above: backend "sim".
 *
 * It has memory (memory_bytes, at most VM_SIM_MEMORY_MAX are kept; a test
 * writes to it), runs or stands, goes through the steps of capture/vm.h and
 * refuses a wrong order. What it does badly is said in extra_args:
 *
 *     "STEP_ms=N"   the step takes N milliseconds (and can be cancelled)
 *     "fail=STEP"   the step fails, once
 *     "die=STEP"    the VM is gone when the step begins
 *
 * STEP: start create load_state prepare stop capture save finish abort resume.
 * An abort is never made to fail by "fail=abort" twice: the second succeeds.
 *
 * Its state, as load_state takes it: "vnsim" NUL, then its memory.
 */

#include "capture/vm_provider.h"

#define VM_SIM_MEMORY_MAX (64ull << 20)
#define VM_SIM_MAGIC      "vnsim"

extern const struct vm_backend vm_sim_backend;

/* The running memory; range inside it. Any thread, except beside capture. */
void vm_sim_write(struct vm *vm, uint64_t offset, const void *data,
                  size_t size);
void vm_sim_read(struct vm *vm, uint64_t offset, void *data, size_t size);

#endif
