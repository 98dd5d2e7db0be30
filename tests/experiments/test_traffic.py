"""What a program's text says of the bytes between a chip and its large memory."""

from experiments import traffic

PROGRAM = """
HloModule jit_step, is_scheduled=true

%fused (param_0.1: f32[8,128]) -> f32[8,128] {
  %param_0.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %add.9 = f32[8,128]{1,0:T(8,128)} add(%param_0.1, %param_0.1)
}

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %negate.1 = f32[8,128]{1,0:T(8,128)} negate(%x)
  ROOT %t = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%i, %negate.1)
}

ENTRY %main (a: f32[8,128], b: bf16[16,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(1)
  %copy-start = (bf16[16,128]{1,0:T(8,128)(2,1)}, bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) copy-start(%b)
  %copy-done = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %slice-start = ((f32[8,128]{1,0:T(8,128)}), f32[1,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:1]}
  %slice-done = f32[1,128]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %fusion = f32[8,128]{1,0:T(8,128)S(1)} fusion(%a, /*index=1*/%copy-done), kind=kLoop, calls=%fused
  %fusion.2 = f32[8,128]{1,0:T(8,128)} fusion(%fusion, %slice-done), kind=kLoop, calls=%fused
  %i = s32[]{:S(2)} constant(0)
  %tuple = (s32[]{:S(2)}, f32[8,128]{1,0:T(8,128)}) tuple(%i, %fusion.2)
  %while = (s32[], f32[8,128]{1,0:T(8,128)}) while(%tuple), condition=%test, body=%body
  ROOT %y = f32[8,128]{1,0:T(8,128)} get-tuple-element(%while), index=1
}
"""


def test_what_stays_on_the_chip_and_what_is_only_named_moves_nothing():
    copied, sliced, first, second, looped = 16 * 128 * 2, 128 * 4, 4096, 4096, 2 * 4096
    assert traffic.hbm_bytes(PROGRAM) == copied + sliced + first + second + looped
