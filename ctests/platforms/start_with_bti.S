/*
 * start_with_bti.S: the beginning of a program on 64-bit ARM, which the C library's is not: it may be
 * jumped to where the processor checks that (BTI). Constructors are called, as ever, by the C library.
 */
    .section .note.gnu.property, "a"
    .balign 8
    .4byte 4, 16, 5             /* bytes of the name and of what follows it; properties */
    .asciz "GNU"
    .4byte 0xc0000000, 4, 3, 0  /* of this processor, in 4 bytes: BTI and PAC; padding */

    .text
    .global _start
_start:
    hint #34                    /* bti c */
    mov x29, #0
    mov x30, #0
    mov x5, x0                  /* what the loader wants to be called at the end */
    ldr x1, [sp]                /* argc */
    add x2, sp, #8              /* argv */
    mov x6, sp                  /* the end of the stack */
    adrp x0, main
    add x0, x0, :lo12:main
    mov x3, #0
    mov x4, #0
    bl __libc_start_main
    .section .note.GNU-stack, "", %progbits
